"""The features of a table's rows, items or users, embedded."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from models.features.spec import TableFeature, features_from_json, features_to_json, is_plain
from models.layers.id_embedding import LARGEST, IdEmbedding
from models.layers.text_embedding import TextEmbedding


@keras.saving.register_keras_serializable(package="courier")
class FeatureEmbeddings(keras.layers.Layer):
    """Turns the values of a `FeatureTable` into dense features.

    Args:
        features: the feature spec, by column.
        sizes: number of known values of each feature that is embedded, see `FeatureSizes`.
        dim: int. Length of an embedding.
        text: the token embedding of text features, which other layers may share; `None` if there are none.
        largest: float. Largest initial value of the other embeddings.

    Attributes:
        embeddings: column to its `IdEmbedding`, for what is embedded besides texts.
        output_dim: sum of the features' lengths.

    Call arguments:
        values: by column, of n rows.
        training: whether IDs are dropped.

    Output: column to its feature, shape `(n, dim)`, or `(n, 1)` for plain numbers.
    """

    def __init__(
        self,
        features: Mapping[str, TableFeature],
        sizes: Mapping[str, int],
        dim: int,
        text: TextEmbedding | None = None,
        largest: float = LARGEST,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if text is None and any(feature.type == "text" for feature in features.values()):
            raise ValueError("`text` must be a `TextEmbedding` if a feature is a text. Received: text=None")
        self.features = dict(features)
        self.sizes = dict(sizes)
        self.dim = dim
        self.text = text
        self.largest = largest
        self.embeddings: dict[str, IdEmbedding] = {}
        self.output_dim = 0
        for name, feature in features.items():
            if feature.type != "text" and not is_plain(feature):
                dropout = feature.dropout if feature.type == "id" else 0.0
                self.embeddings[name] = IdEmbedding(
                    sizes[name], dim, dropout, largest, name=f"{name}_embedding", dtype=self.dtype_policy
                )
                self.embeddings[name].build()
            self.output_dim += 1 if is_plain(feature) else dim
        self.built = True

    def call(self, values: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Embeds; see the class."""
        embedded = {}
        for name, feature in self.features.items():
            if name in self.embeddings:
                embedded[name] = self.embeddings[name](values[name], training=training)
            elif feature.type == "text" and self.text is not None:
                embedded[name] = self.text(values[name])
            else:
                embedded[name] = tf.saturate_cast(values[name][:, None], self.compute_dtype)
        return embedded

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "features": features_to_json(self.features),
            "sizes": self.sizes,
            "dim": self.dim,
            "text": keras.saving.serialize_keras_object(self.text),
            "largest": self.largest,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FeatureEmbeddings":
        """Makes the layer of a `get_config`."""
        text = keras.saving.deserialize_keras_object(config["text"])
        if text is not None and not text.built:
            text.build(None)
        return cls(**{**config, "features": features_from_json(config["features"]), "text": text})
