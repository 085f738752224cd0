"""The item embedding network: one vector per item, for candidates and histories alike."""

from typing import Any

import keras
import tensorflow as tf

from models.features.embeddings import FeatureEmbeddings
from models.ranker.item_table import ItemValues


@keras.saving.register_keras_serializable(package="courier")
class ItemTower(keras.layers.Layer):
    """Turns what is known of items into item vectors: their features and pictures, through one dense layer or none.

    For a tower of your own, subclass it and give it to the ranker, see `Ranker.item_tower`.

    Args:
        features: embeds the item features.
        picture_encoder: encodes `PictureValues.item`, see `Pictures.item_encoder`; `None` if pictures enter
            otherwise or not at all.
        dim: int. Length of an item vector; 0 for features and pictures side by side, as in the paper.

    Attributes:
        output_dim: int. Length of an item vector.

    Call arguments:
        values: what an `ItemTable` says of n items.
        training: whether IDs are dropped.

    Output: the features by column, each `(n, length)`, and the item vectors `(n, output_dim)`.

    Reference: the paper's appendix A, item embedding network.
    """

    def __init__(
        self, features: FeatureEmbeddings, picture_encoder: keras.layers.Layer | None, dim: int, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.features = features
        self.picture_encoder = picture_encoder
        self.dim = dim
        self.input_dim = features.output_dim + (0 if picture_encoder is None else features.dim)
        self.output_dim = dim or self.input_dim
        self.projection = None
        if dim:
            self.projection = keras.layers.Dense(dim, name="projection", dtype=self.dtype_policy)
            self.projection.build((None, self.input_dim))
        self.built = True

    def call(self, values: ItemValues, training: bool = False) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Embeds items; see the class."""
        features = self.features(values.features, training=training)
        inputs = [*features.values()]
        if self.picture_encoder is not None:
            inputs.append(self.picture_encoder(values.pictures.item))
        vectors = tf.concat(inputs, axis=-1)
        return features, vectors if self.projection is None else self.projection(vectors)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        parts = {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("features", "picture_encoder")
        }
        return {**super().get_config(), **parts, "dim": self.dim}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ItemTower":
        """Makes the layer of a `get_config`."""
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("features", "picture_encoder")}
        return cls(**{**config, **parts})
