"""`simtier`: how many steps of each history look how much like a candidate."""

import tensorflow as tf

from models.layers import matches
from models.ranker.pictures.similarities import Similarities
from models.ranker.pictures.simscore import ImageSimilarityFeature

_TIERS = 14


class SimTierFeature(ImageSimilarityFeature):
    """A histogram of the cosines with the steps of a history: the logarithm of one more than the steps of each tier.

    The weight per tier that the reference learns is that of the layer which reads them.

    Reference: Sheng et al., Enhancing Taobao Display Advertising with Multimodal Representations (CIKM 2024), SimTier.
    """

    pooled_dim = _TIERS

    def compare(self, similarities: Similarities) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The histogram; see the class."""
        tier = tf.where(similarities.present, matches.tier_of(similarities.standard, _TIERS), -1)
        return [], [tf.math.log1p(matches.tier_sums(tf.ones_like(similarities.standard), tier, _TIERS))]
