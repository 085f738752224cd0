"""M6: pictures and titles in one transformer whose feed-forward layers are sparse mixtures of experts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from models.layers.mixture_of_experts import MixtureOfExperts
from models.layers.self_attention import SelfAttention
from models.vision.backbone import Backbone

_EPSILON = 1e-5
_STDDEV = 0.02  # of the initial embeddings


class Attended(NamedTuple):
    """What `M6.attend` returns.

    Attributes:
        features: `(items, width)`.
        balance, choices, dropped: of the mixtures, added up over blocks; see `Mixture`.
    """

    features: Any
    balance: Any
    choices: Any
    dropped: Any


@keras.saving.register_keras_serializable(package="courier")
class M6Block(keras.layers.Layer):
    """Self-attention and a mixture of experts, each on what is normalised before and added afterwards.

    Args:
        heads, experts, hidden, k, capacity_factor: see `SelfAttention` and `MixtureOfExperts`.

    Call arguments:
        x: `(batch, length, width)`.
        valid: bool `(batch, length)`, false at padding.
        training: whether experts are limited.

    Returns:
        The shape of `x`, and the `Mixture`.
    """

    def __init__(
        self, heads: int, experts: int, hidden: int, k: int = 2, capacity_factor: float | None = 1.25, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.attention_norm = keras.layers.LayerNormalization(epsilon=_EPSILON, dtype=policy, name="attention_norm")
        self.attention = SelfAttention(heads, dtype=policy, name="attention")
        self.norm = keras.layers.LayerNormalization(epsilon=_EPSILON, dtype=policy, name="norm")
        self.mixture = MixtureOfExperts(experts, hidden, k, capacity_factor, dtype=policy, name="mixture")

    def build(self, x_shape: Sequence[Any], valid_shape: Sequence[Any] | None = None) -> None:
        """Makes the weights."""
        for layer in (self.attention_norm, self.attention, self.norm, self.mixture):
            layer.build(x_shape)

    def call(self, x: Any, valid: Any, training: bool = False) -> tuple[Any, Any]:
        """See the class."""
        x = x + self.attention(self.attention_norm(x), valid)
        mixture = self.mixture(self.norm(x), valid, training=training)
        return x + mixture.outputs, mixture

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        mixture = self.mixture
        return {
            **super().get_config(),
            "heads": self.attention.heads,
            "experts": mixture.experts,
            "hidden": mixture.hidden,
            "k": mixture.k,
            "capacity_factor": mixture.capacity_factor,
        }


@keras.saving.register_keras_serializable(package="courier")
class M6(Backbone):
    """A picture's patches and its title's tokens in one transformer with sparse mixtures of experts.

    As a backbone of an `ImageEncoder` it reads pictures alone; `attend` reads titles, too. The features are the mean of
    the last states of patches and tokens, normalised. Positions are sines and cosines of rows and columns (of tokens:
    of their number), so that pictures of any size are read. The article says neither how large its M6 is nor what lies
    between transformer and embedding: sizes and pooling are ours.

    Args:
        patch_size: side of a patch; pictures lose what is over.
        width: length of the states; a multiple of 4 and of `heads`.
        layers: number of blocks.
        heads: attention heads of a block.
        experts, hidden, k, capacity_factor: of each mixture, see `MixtureOfExperts`.
        vocabulary: number of tokens.

    Shapes:
        `(batch, height, width, 3)`, normalised pictures, to `(batch, width)`.

    Reference: the companion article's section on M6; Lin et al., M6 (KDD 2021), section 3.
    """

    def __init__(
        self,
        patch_size: int = 8,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        experts: int = 8,
        hidden: int = 128,
        k: int = 2,
        capacity_factor: float | None = 1.25,
        vocabulary: int = 20000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if width % 4:
            raise ValueError(f"`width` must be a multiple of 4. Received: {width}")
        self.patch_size = patch_size
        self.width = self.features = width
        self.vocabulary = vocabulary
        policy = self.dtype_policy
        self.patches = keras.layers.Conv2D(width, patch_size, strides=patch_size, dtype=policy, name="patches")
        self.blocks = [
            M6Block(heads, experts, hidden, k, capacity_factor, dtype=policy, name=f"block_{number}")
            for number in range(layers)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=_EPSILON, dtype=policy, name="norm")

    def build(self, input_shape: Sequence[Any]) -> None:
        """Makes the weights, those for titles too."""
        self.patches.build((None, None, None, input_shape[-1]))
        initializer = keras.initializers.RandomNormal(stddev=_STDDEV)
        self.token_table = self.add_weight(
            name="tokens", shape=(self.vocabulary, self.width), initializer=initializer, autocast=False
        )
        self.kind_table = self.add_weight(name="kinds", shape=(2, self.width), initializer=initializer, autocast=False)
        for block in self.blocks:
            block.build((None, None, self.width))
        self.norm.build((None, self.width))

    def call(self, x: Any, training: bool = False) -> Any:
        """See the class."""
        return self.attend(x, training=training).features

    def attend(self, x: Any, tokens: Any = None, valid: Any = None, training: bool = False) -> Attended:
        """The features of items, and what became of their patches and tokens.

        Args:
            x: `(items, height, width, 3)`, normalised pictures.
            tokens: int `(items, length)`, -1 = padding; `None` for no titles.
            valid: bool `(items,)`, which are not padding. All by default.
            training: whether experts are limited.
        """
        patches = self.patches(x)
        rows, columns = patches.shape[1:3]
        half = self.width // 2
        # On each patch, the waves of its row beside those of its column.
        places = ops.concatenate(
            [ops.repeat(_waves(rows, half), columns, axis=0), ops.tile(_waves(columns, half), (rows, 1))], axis=-1
        )
        parts = [ops.cast(ops.reshape(patches, (-1, rows * columns, self.width)), "float32") + places]
        parts[0] = parts[0] + self.kind_table[0]
        present = [ops.ones_like(parts[0][..., 0], "bool")]
        if tokens is not None:
            table = ops.convert_to_tensor(self.token_table)
            embedded = ops.take(table, ops.maximum(tokens, 0), axis=0) + _waves(tokens.shape[1], self.width)
            parts.append(embedded + self.kind_table[1])
            present.append(tokens >= 0)
        states, present = ops.cast(ops.concatenate(parts, axis=1), self.compute_dtype), ops.concatenate(present, axis=1)
        if valid is not None:
            present = present & valid[:, None]
        balance = choices = dropped = 0.0
        for block in self.blocks:
            states, mixture = block(states, present, training=training)
            balance, choices, dropped = balance + mixture.balance, choices + mixture.choices, dropped + mixture.dropped
        weights = ops.cast(present, "float32")[..., None]
        mean = ops.sum(ops.cast(states, "float32") * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
        return Attended(self.norm(ops.cast(mean, self.compute_dtype)), balance, choices, dropped)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        block = self.blocks[0].get_config()
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "width": self.width,
            "layers": len(self.blocks),
            "vocabulary": self.vocabulary,
            **{name: block[name] for name in ("heads", "experts", "hidden", "k", "capacity_factor")},
        }


def _waves(length: int, width: int) -> Any:
    """Sines and cosines of positions, `(length, width)`, with wavelengths from 2 pi to 10,000 times that."""
    frequencies = ops.exp(-9.21 * ops.arange(width // 2, dtype="float32") / (width // 2))
    angles = ops.arange(length, dtype="float32")[:, None] * frequencies[None, :]
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
