"""The text encoder: titles in, embeddings out."""

from typing import Any

import keras
from keras import ops

from models.text.bert import Bert


@keras.saving.register_keras_serializable(package="courier")
class TextEncoder(keras.Model):
    """Embeds titles with BERT and a linear projection, into the space of an `ImageEncoder`.

    Args:
        bert: from tokens `(texts, length)` to `(texts, bert.width)`.
        embedding_dim: length of the embeddings.

    Shapes:
        int `(texts, length)`, -1 = padding, to float32 `(texts, embedding_dim)`, not normalised. A text without
        tokens gets the projection's bias.

    Example:
        >>> TextEncoder(Bert(vocabulary=100, width=16), embedding_dim=8)(np.array([[2, 5, 3, -1]])).shape
        TensorShape([1, 8])
    """

    def __init__(self, bert: Bert, embedding_dim: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if embedding_dim < 1:
            raise ValueError(f"`embedding_dim` must be at least 1. Received: {embedding_dim}")
        self.bert = bert
        self.embedding_dim = embedding_dim
        self.projection = keras.layers.Dense(embedding_dim, dtype=self.dtype_policy, name="projection")
        if not bert.built:
            bert.build((None, None))
        self.projection.build((None, bert.width))
        self.built = True

    def call(self, tokens: Any, training: bool = False) -> Any:
        """See the class."""
        return ops.cast(self.projection(self.bert(tokens, training=training)), "float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "bert": keras.saving.serialize_keras_object(self.bert),
            "embedding_dim": self.embedding_dim,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "TextEncoder":
        """Builds an encoder from what `get_config` returned."""
        bert = keras.saving.deserialize_keras_object(config["bert"], custom_objects=custom_objects)
        return cls(**{**config, "bert": bert})
