"""BERT, as a layer that embeds titles."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from models.layers.self_attention import SelfAttention

EPSILON = 1e-12  # of the layer normalisations
_STDDEV = 0.02  # of the initial embeddings
POOLINGS = ("mean", "cls")


@keras.saving.register_keras_serializable(package="courier")
class BertBlock(keras.layers.Layer):
    """Self-attention and a two-layer perceptron, each added to its input and normalised afterwards.

    Args:
        heads: int. Number of attention heads.
        hidden: int. Units of the perceptron, which has an exact GELU.
        dropout: share of values that training drops from attention weights and from both branches.

    Call arguments:
        x: `(batch, length, width)`.
        valid: bool `(batch, length)`, false at padding.
        training: whether values are dropped.

    Output shape: that of `x`.

    Reference: Devlin et al., BERT (NAACL 2019), section 3.
    """

    def __init__(self, heads: int, hidden: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.hidden = hidden
        self.dropout = dropout
        policy = self.dtype_policy
        self.attention = SelfAttention(heads, dropout, dtype=policy, name="attention")
        self.attention_norm = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="attention_norm")
        self.expand = keras.layers.Dense(hidden, dtype=policy, name="expand")
        self.norm = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="norm")
        self.drop = keras.layers.Dropout(dropout, dtype=policy, name="drop")

    def build(self, x_shape: Sequence[Any], valid_shape: Sequence[Any] | None = None) -> None:
        """Makes the weights."""
        for layer in (self.attention, self.attention_norm, self.expand, self.norm, self.drop):
            layer.build(x_shape)
        self.reduce = keras.layers.Dense(x_shape[-1], dtype=self.dtype_policy, name="reduce")
        self.reduce.build((*x_shape[:-1], self.hidden))

    def call(self, x: Any, valid: Any, training: bool = False) -> Any:
        """See the class."""
        attended = self.attention(x, valid, training=training)
        x = self.attention_norm(x + self.drop(attended, training=training))
        hidden = self.reduce(ops.gelu(self.expand(x), approximate=False))
        return self.norm(x + self.drop(hidden, training=training))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "heads": self.heads, "hidden": self.hidden, "dropout": self.dropout}


@keras.saving.register_keras_serializable(package="courier")
class Bert(keras.layers.Layer):
    """A BERT encoder of single texts, with one vector per text.

    Backend-agnostic. `load_bert_weights` fills it from the files of a published model. Padding changes nothing, and a
    text without tokens gets zeros.

    Args:
        vocabulary: int. Number of tokens.
        layers: int. Number of blocks.
        width: int. Length of the vectors.
        heads: int. Attention heads of a block.
        hidden: int. Units of a block's perceptron; four times the width if left out.
        positions: int. Longest text, in tokens.
        types: int. Kinds of segments that the published weights know; a text is of the first one.
        pooling: `mean` of the states of a text's tokens, or `cls`, the state of its first one.
        dropout: share of values that training drops.

    Call arguments:
        tokens: int `(texts, length)`, numbers of tokens, -1 = padding at the end.
        training: whether values are dropped.

    Output shape: float `(texts, width)`, not normalised.

    Example:
        >>> Bert(vocabulary=100, layers=2, width=16, heads=2)(np.array([[2, 5, 3, -1]])).shape
        TensorShape([1, 16])

    Reference: Devlin et al., BERT (NAACL 2019); the mean of states: Reimers and Gurevych, Sentence-BERT (EMNLP 2019).
    """

    def __init__(
        self,
        vocabulary: int,
        layers: int = 2,
        width: int = 128,
        heads: int = 2,
        hidden: int | None = None,
        positions: int = 512,
        types: int = 2,
        pooling: str = "mean",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {POOLINGS}. Received: {pooling!r}")
        self.vocabulary = vocabulary
        self.layers_count = layers
        self.width = width
        self.heads = heads
        self.hidden = 4 * width if hidden is None else hidden
        self.positions = positions
        self.types = types
        self.pooling = pooling
        self.dropout = dropout
        policy = self.dtype_policy
        self.blocks = [
            BertBlock(heads, self.hidden, dropout, dtype=policy, name=f"block_{number}") for number in range(layers)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="norm")
        self.drop = keras.layers.Dropout(dropout, dtype=policy, name="drop")

    def build(self, tokens_shape: Sequence[Any]) -> None:
        """Makes the weights."""

        def table(name: str, rows: int) -> keras.Variable:
            initializer = keras.initializers.RandomNormal(stddev=_STDDEV)
            return self.add_weight(name=name, shape=(rows, self.width), initializer=initializer, autocast=False)

        self.token_table = table("tokens", self.vocabulary)
        self.position_table = table("positions", self.positions)
        self.type_table = table("types", self.types)
        for layer in (self.norm, self.drop, *self.blocks):
            layer.build((None, None, self.width))

    def states(self, tokens: Any, training: bool = False) -> Any:
        """The last state of each token: `(texts, length, width)`; those of padding mean nothing."""
        return self.contextualize(self.embed(tokens), tokens >= 0, training=training)

    def embed(self, tokens: Any) -> Any:
        """The tokens without their positions: `(texts, length, width)`."""
        return ops.take(ops.convert_to_tensor(self.token_table), ops.maximum(tokens, 0), axis=0)

    def contextualize(self, embedded: Any, valid: Any, training: bool = False) -> Any:
        """The last states of sequences of vectors from `embed`.

        Args:
            embedded: `(texts, length, width)`, at most `positions` long.
            valid: bool `(texts, length)`.
            training: whether values are dropped.
        """
        length = embedded.shape[1]
        if length is not None and length > self.positions:
            raise ValueError(f"`tokens` must be at most {self.positions} long. Received: {length}")
        placed = embedded + self.position_table[: ops.shape(embedded)[1]] + self.type_table[0]
        x = self.drop(self.norm(ops.cast(placed, self.compute_dtype)), training=training)
        for block in self.blocks:
            x = block(x, valid, training=training)
        return x

    def pool(self, states: Any, valid: Any) -> Any:
        """One vector per text: float32 `(texts, width)`, zeros without valid tokens."""
        states, present = ops.cast(states, "float32"), ops.cast(valid, "float32")[..., None]
        if self.pooling == "cls":
            return states[:, 0] * present[:, 0]
        return ops.sum(states * present, axis=1) / ops.maximum(ops.sum(present, axis=1), 1.0)

    def call(self, tokens: Any, training: bool = False) -> Any:
        """See the class."""
        return ops.cast(self.pool(self.states(tokens, training=training), tokens >= 0), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary": self.vocabulary,
            "layers": self.layers_count,
            "width": self.width,
            "heads": self.heads,
            "hidden": self.hidden,
            "positions": self.positions,
            "types": self.types,
            "pooling": self.pooling,
            "dropout": self.dropout,
        }
