"""`simscore`: how much a candidate's picture looks like those of each history."""

from typing import Any

import tensorflow as tf

from models.features.adapt import image_table, similarity_of
from models.features.tables import look_up
from models.layers import matches
from models.ranker.pictures.picture_feature import PictureFeature, Table, Tables
from models.ranker.pictures.similarities import Similarities

_LARGEST = 5


class ImageSimilarityFeature(PictureFeature):
    """What reads the cosines of embeddings; see `PictureFeature`."""

    reads = "embeddings"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        table = image_table(self.embedding)
        shape = (self.sizes.items + 1, self.sizes.image_dims[self.embedding])
        self.tables = {table: Table(shape), similarity_of(table): Table((2,))}
        self.compares = table

    def vectors(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> tf.Tensor:
        """The embeddings."""
        return look_up(tables[image_table(self.embedding)], rows)


class SimScoreFeature(ImageSimilarityFeature):
    """The cosine of the candidate's embedding with that of every history step, in standard deviations; see
    `PictureFeature`. Of a history, the largest, the mean of the five largest and the mean of all.

    Reference: the paper's equation 8.
    """

    pair_features = 1
    pooled_dim = 3

    def compare(self, similarities: Similarities) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The cosines; see the class."""
        return [similarities.standard], [summary(similarities)]


def summary(similarities: Similarities) -> tf.Tensor:
    """Of each history the largest cosine, the mean of the five largest and the mean of all: `(..., 3)`."""
    cosines, present = similarities.cosines, similarities.present
    history = [matches.mean_of_largest(cosines, present, count) for count in (1, _LARGEST)]
    history.append(matches.mean_match(cosines, similarities.step_present))
    any_pair = tf.reduce_any(present, axis=-1)[..., None]
    return similarities.standardize(tf.stack(history, axis=-1), any_pair)
