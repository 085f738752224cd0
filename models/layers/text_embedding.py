"""Titles and queries as bags of hashed words, in the graph, so that a query means the same in training and serving."""

from typing import Any

import keras
import tensorflow as tf

from models.data.pages import PADDING
from models.layers.table_rows import gather_rows


def hash_tokens(texts: tf.Tensor, buckets: int, length: int) -> tf.Tensor:
    """Splits texts into words and hashes them.

    Words are runs of letters and digits in any script, compared without case; each Han character is a word.

    Args:
        texts: UTF-8 strings, shape `(n,)`.
        buckets: number of hash values.
        length: words kept of a text.

    Returns:
        int64, shape `(n, length)`, padded with -1.
    """
    texts = tf.strings.lower(texts, encoding="utf-8")
    texts = tf.strings.regex_replace(texts, r"[^\pL\pN]+", " ")
    texts = tf.strings.regex_replace(texts, r"(\p{Han})", r" \1 ")
    words = tf.strings.split(texts)
    return tf.strings.to_hash_bucket_fast(words, buckets).to_tensor(PADDING, shape=(None, length))


@keras.saving.register_keras_serializable(package="courier")
class TextEmbedding(keras.layers.Layer):
    """Mean of the embeddings of a text's tokens; zeros for a text without tokens.

    Args:
        buckets: int. Number of token hashes.
        dim: int. Length of the embedding.

    Call arguments:
        tokens: from `hash_tokens`, shape `(n, length)`.

    Output shape: `(n, dim)`.
    """

    def __init__(self, buckets: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.buckets = buckets
        self.dim = dim

    def build(self, tokens_shape: Any) -> None:
        """Makes the token embeddings."""
        # `autocast` would copy the whole table.
        self.embeddings = self.add_weight(
            name="embeddings", shape=(self.buckets, self.dim), initializer="uniform", autocast=False
        )
        self.built = True

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Embeds; see the class."""
        present = tf.cast(tokens != PADDING, self.variable_dtype)
        vectors = gather_rows(self.embeddings, tf.maximum(tokens, 0)) * present[..., None]
        mean = tf.math.divide_no_nan(tf.reduce_sum(vectors, axis=1), tf.reduce_sum(present, axis=1, keepdims=True))
        return tf.cast(mean, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "buckets": self.buckets, "dim": self.dim}
