"""The image encoder: pictures in, embeddings out."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from models.vision.swin import Swin

# Channel statistics of ImageNet for pictures in [0, 255]; published Swin weights expect them.
MEAN = (123.675, 116.28, 103.53)
STDDEV = (58.395, 57.12, 57.375)


@keras.saving.register_keras_serializable(package="courier")
class SwinEncoder(keras.Model):
    """Embeds pictures with a Swin Transformer and a linear projection of its pooled features.

    Args:
        embedding_dim: length of the embeddings.
        patch_size, dim, depths, num_heads, window, mlp_ratio, drop_path: see `Swin`.

    Shapes:
        uint8 `(pictures, height, width, 3)`, RGB, to float32 `(pictures, embedding_dim)`, not normalised.

    Example:
        >>> encoder = SwinEncoder(embedding_dim=64, dim=32, depths=[1, 2], num_heads=[2, 4], window=4)
        >>> encoder(np.zeros((8, 64, 64, 3), np.uint8)).shape
        TensorShape([8, 64])
    """

    def __init__(
        self,
        embedding_dim: int = 256,
        patch_size: int = 4,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embedding_dim = embedding_dim
        policy = self.dtype_policy
        self.swin = Swin(patch_size, dim, depths, num_heads, window, mlp_ratio, drop_path, dtype=policy, name="swin")
        self.projection = keras.layers.Dense(embedding_dim, dtype=policy, name="projection")
        self.swin.build((None, None, None, 3))
        self.projection.build((None, self.swin.features))
        self.built = True

    def call(self, pictures: Any, training: bool = False) -> Any:
        """See the class."""
        x = (ops.cast(pictures, "float32") - ops.array(MEAN, "float32")) / ops.array(STDDEV, "float32")
        return ops.cast(self.projection(self.swin(x, training=training)), "float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        swin = self.swin.get_config()
        architecture = ("patch_size", "dim", "depths", "num_heads", "window", "mlp_ratio", "drop_path")
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            **{key: swin[key] for key in architecture},
        }
