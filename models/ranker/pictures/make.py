"""`make`: what a click model of pictures alone, trained before the ranker, says of a candidate and each history."""

from typing import Any

import tensorflow as tf

from models.ranker.pictures.picture_din import VECTOR_DIM, PictureDin
from models.ranker.pictures.similarities import Similarities
from models.ranker.pictures.simscore import ImageSimilarityFeature

_STEPS = 50
"""Newest steps of a history that it looks at: an activation unit costs many times what a cosine does."""


class MakeFeature(ImageSimilarityFeature):
    """The vector and the logit of a `PictureDin`, which the ranker takes as they are; see `PictureFeature`.

    IDs are learned by heart from the second pass over the pages on, so that a ranker makes about one; pictures are not,
    and one pass is too little for them. So the two learn one after the other: first the pictures, in several passes.

    Reference: Sheng et al., Enhancing Taobao Display Advertising with Multimodal Representations (CIKM 2024), MAKE.
    """

    pooled_dim = VECTOR_DIM + 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tower = PictureDin(self.sizes.image_dims[self.embedding], name=f"din_{self.embedding}")

    def compare(self, similarities: Similarities) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The vector, and behind it the logit."""
        assert self.tower is not None
        vectors, logits = self.tower(
            similarities.candidates,
            similarities.steps[:, :_STEPS],
            similarities.step_present[:, :_STEPS],
            similarities.standard[:, :, :_STEPS],
        )
        return [], [tf.concat([vectors, logits[..., None]], axis=-1)]
