"""The image encoder: pictures in, embeddings out."""

from pathlib import Path
from typing import Any

import keras
from keras import ops

# Both backbones are imported so that `load_model` knows them wherever it knows `ImageEncoder`.
from models.vision.convnet import ConvNet
from models.vision.swin import Swin

# Channel statistics of ImageNet for pictures in [0, 255]; published Swin weights expect them.
MEAN = (123.675, 116.28, 103.53)
STDDEV = (58.395, 57.12, 57.375)


@keras.saving.register_keras_serializable(package="courier")
class ImageEncoder(keras.Model):
    """Embeds pictures with a backbone and a linear projection of its pooled features.

    Args:
        backbone: from normalised pictures `(pictures, height, width, 3)` to `(pictures, backbone.features)`: `Swin`
            or `ConvNet`.
        embedding_dim: length of the embeddings.

    Shapes:
        uint8 `(pictures, height, width, 3)`, RGB, to float32 `(pictures, embedding_dim)`, not normalised.

    Example:
        >>> encoder = ImageEncoder(Swin(dim=32, depths=[1, 2], num_heads=[2, 4], window=4), embedding_dim=64)
        >>> encoder(np.zeros((8, 64, 64, 3), np.uint8)).shape
        TensorShape([8, 64])

    Reference: COURIER, section 3.1.
    """

    def __init__(self, backbone: Swin | ConvNet, embedding_dim: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if embedding_dim < 1:
            raise ValueError(f"`embedding_dim` must be at least 1. Received: {embedding_dim}")
        self.backbone = backbone
        self.embedding_dim = embedding_dim
        self.projection = keras.layers.Dense(embedding_dim, dtype=self.dtype_policy, name="projection")
        if not backbone.built:
            backbone.build((None, None, None, 3))
        self.projection.build((None, backbone.features))
        self.built = True

    def call(self, pictures: Any, training: bool = False) -> Any:
        """See the class."""
        x = (ops.cast(pictures, "float32") - ops.array(MEAN, "float32")) / ops.array(STDDEV, "float32")
        return ops.cast(self.projection(self.backbone(x, training=training)), "float32")

    @classmethod
    def from_preset(cls, preset: str | Path, dtype: str = "float32") -> "ImageEncoder":
        """A new encoder as a configuration of `models.pretrain` describes it.

        Its weights are random, or the backbone's those of the published file that the configuration names.

        Args:
            preset: name of a preset in `models/configs`, for example `courier_cpu`, or a YAML file like one.
            dtype: Keras policy, for example `mixed_bfloat16`.

        Raises:
            ConfigurationError: there is no such preset, or it has mistakes.
            ArtifactError: the published weights are missing or do not fit.
        """
        from models.vision.config import build_encoder, load_encoder_config, load_pretrained  # which import this module

        config = load_encoder_config(preset)
        encoder = build_encoder(config, dtype)
        load_pretrained(encoder, config)
        return encoder

    def with_precision(self, dtype: str) -> "ImageEncoder":
        """A copy with the same weights that computes under another Keras policy, for example `mixed_bfloat16`."""
        backbone = type(self.backbone).from_config({**self.backbone.get_config(), "dtype": dtype})
        copy = ImageEncoder(backbone, self.embedding_dim, dtype=dtype)
        copy.set_weights(self.get_weights())
        return copy

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "embedding_dim": self.embedding_dim,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ImageEncoder":
        """Builds an encoder from what `get_config` returned."""
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects=custom_objects)
        return cls(**{**config, "backbone": backbone})
