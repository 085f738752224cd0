"""Numbers that a page carries for each candidate, such as its clicks of the last days."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from models.data.pages import PADDING
from models.features.number_scale import LARGEST, LARGEST_COUNT, NumberScale, log_magnitude, present_numbers
from models.features.spec import NumberFeature, features_from_json, features_to_json
from models.layers.id_embedding import IdEmbedding


@keras.saving.register_keras_serializable(package="courier")
class DenseFeatures(keras.layers.Layer):
    """Clips and transforms the numbers of candidates, in the graph, with the scales of the training pages.

    Args:
        features: the feature spec, by name of the number.
        dim: int. Length of the embedding of a quantile.

    Attributes:
        output_dim: sum of the features' lengths.

    Call arguments:
        page: number name to its values, shape `(batch, candidates)`; missing are -1, NaN, and what is no number: see
            `as_numbers`, and integers that are as large as `LARGEST_COUNT`.

    Output: `(batch, candidates, output_dim)`, always finite.
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
        self.ranges = self.add_weight(
            name="ranges", shape=(len(features), 2), initializer=_not_clipped, trainable=False, autocast=False
        )
        self.built = True

    def fill(self, scales: Mapping[str, NumberScale]) -> None:
        """Writes the scales that were found in training pages."""
        for name, feature in self.features.items():
            number = scales[name]
            scale = number.boundaries if feature.transform == "buckets" else (number.mean, number.deviation)
            self.scales[name].assign(np.array(scale, np.float32))
        ranges = [scales[name].range for name in self.features]
        self.ranges.assign(np.array(ranges, np.float32).reshape(-1, 2))

    def call(self, page: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Transforms; see the class."""
        # All numbers in one tensor: a page is scored in a few milliseconds, of which each small operation is a part.
        given = [tf.convert_to_tensor(page[name]) for name in self.features]
        largest = [LARGEST_COUNT if values.dtype.is_integer else LARGEST for values in given]
        values = tf.stack([tf.cast(each, tf.float32) for each in given], axis=-1)
        numbers, present = present_numbers(values, tf.constant(largest, tf.float32))
        present &= values != PADDING
        low, high = tf.unstack(self.ranges.value, axis=1)
        numbers = tf.clip_by_value(numbers, low, high)
        scales = [
            (0.0, 1.0) if feature.transform == "buckets" else tf.unstack(self.scales[name].value)
            for name, feature in self.features.items()
        ]
        mean, deviation = (tf.stack(part) for part in zip(*scales, strict=True))
        is_log = tf.constant([feature.transform == "log" for feature in self.features.values()])
        standard = (tf.where(is_log, log_magnitude(numbers), numbers) - mean) / deviation
        standard = tf.where(present & tf.math.is_finite(standard), standard, 0.0)
        transformed = []
        for number, (name, feature) in enumerate(self.features.items()):
            if feature.transform == "buckets":
                column = numbers[..., number]
                flat = tf.searchsorted(self.scales[name].value, tf.reshape(column, (-1,)), side="right")
                bucket = tf.where(present[..., number], tf.reshape(flat, tf.shape(column)) + 1, 0)
                transformed.append(self.embeddings[name](bucket))
            else:
                transformed.append(tf.saturate_cast(standard[..., number, None], self.compute_dtype))
        return tf.concat(transformed, axis=-1)

    def load_own_variables(self, store: Any) -> None:
        """Keras' hook. Rankers that were saved before there were ranges clip nothing."""
        stored = {key: store[key] for key in store.keys()}  # noqa: SIM118
        if len(stored) == len(self.scales):
            stored[str(len(stored))] = _not_clipped(self.ranges.shape)
        super().load_own_variables(stored)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "features": features_to_json(self.features), "dim": self.dim}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DenseFeatures":
        """Makes the layer of a `get_config`."""
        return cls(**{**config, "features": features_from_json(config["features"])})


def _not_clipped(shape: tuple[int, int], dtype: Any = None) -> np.ndarray:
    largest = np.finfo(np.float32).max
    return np.tile(np.array([-largest, largest], np.float32), (shape[0], 1))
