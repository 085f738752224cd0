"""Numbers that a page carries for each candidate, such as its clicks of the last days."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from models.data.pages import PADDING
from models.features.spec import NumberFeature, features_from_json, features_to_json
from models.features.vocabulary import NumberScale, log_magnitude
from models.layers.id_embedding import IdEmbedding


@keras.saving.register_keras_serializable(package="courier")
class DenseFeatures(keras.layers.Layer):
    """Transforms the numbers of candidates, in the graph, with the scales of the training pages.

    Args:
        features: the feature spec, by name of the number.
        dim: int. Length of the embedding of a quantile.

    Attributes:
        output_dim: sum of the features' lengths.

    Call arguments:
        page: number name to its values, shape `(batch, candidates)`; -1, or NaN, is a missing one.

    Output: `(batch, candidates, output_dim)`.
    """

    def __init__(self, features: Mapping[str, NumberFeature], dim: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.features = dict(features)
        self.dim = dim
        self.scales: dict[str, keras.Variable] = {}
        self.embeddings: dict[str, IdEmbedding] = {}
        self.output_dim = 0
        for name, feature in features.items():
            # Mean and deviation, or the boundaries of the quantiles.
            size = feature.buckets - 1 if feature.transform == "buckets" else 2
            self.scales[name] = self.add_weight(
                name=name, shape=(size,), initializer="zeros", trainable=False, autocast=False
            )
            if feature.transform == "buckets":
                self.embeddings[name] = IdEmbedding(
                    feature.buckets, dim, name=f"{name}_embedding", dtype=self.dtype_policy
                )
                self.embeddings[name].build()
            self.output_dim += dim if feature.transform == "buckets" else 1
        self.built = True

    def fill(self, scales: Mapping[str, NumberScale]) -> None:
        """Writes the scales that were found in training pages."""
        for name, feature in self.features.items():
            number = scales[name]
            scale = number.boundaries if feature.transform == "buckets" else (number.mean, number.deviation)
            self.scales[name].assign(np.array(scale, np.float32))

    def call(self, page: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Transforms; see the class."""
        transformed = []
        for name, feature in self.features.items():
            values, scale = tf.cast(page[name], tf.float32), self.scales[name].value
            present = tf.math.is_finite(values) & (values != PADDING)
            values = tf.where(present, values, 0.0)
            if feature.transform == "buckets":
                flat = tf.searchsorted(scale, tf.reshape(values, (-1,)), side="right")
                bucket = tf.where(present, tf.reshape(flat, tf.shape(values)) + 1, 0)
                transformed.append(self.embeddings[name](bucket))
                continue
            if feature.transform == "log":
                values = log_magnitude(values)
            number = tf.where(present, (values - scale[0]) / scale[1], 0.0)[..., None]
            transformed.append(tf.saturate_cast(number, self.compute_dtype))
        return tf.concat(transformed, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "features": features_to_json(self.features), "dim": self.dim}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DenseFeatures":
        """Makes the layer of a `get_config`."""
        return cls(**{**config, "features": features_from_json(config["features"])})
