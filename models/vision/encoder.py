"""The image encoder: pictures in, embeddings out."""

from pathlib import Path
from typing import Any

import keras
from keras import ops

# The backbones are imported so that `load_model` knows them wherever it knows `ImageEncoder`.
import models.vision.convnet
import models.vision.efficientnet_lite
import models.vision.m6
import models.vision.swin  # noqa: F401
from models.vision.backbone import Backbone


@keras.saving.register_keras_serializable(package="courier")
class ImageEncoder(keras.Model):
    """Embeds pictures with a backbone and a linear projection of its pooled features.

    Args:
        backbone: `Swin`, `ConvNet`, `EfficientNetLite` or `M6`; it says how its pictures are normalised.
        embedding_dim: length of the embeddings; `None` makes the features themselves the embeddings.

    Shapes:
        uint8 `(pictures, height, width, 3)`, RGB, to float32 `(pictures, embedding_dim)`, not normalised. `valid`, bool
        `(pictures,)`, says which pictures are not padding; only backbones with statistics of the batch
        have a use for it.

    Example:
        >>> encoder = ImageEncoder(Swin(dim=32, depths=[1, 2], num_heads=[2, 4], window=4), embedding_dim=64)
        >>> encoder(np.zeros((8, 64, 64, 3), np.uint8)).shape
        TensorShape([8, 64])

    Reference: COURIER, section 3.1.
    """

    def __init__(self, backbone: Backbone, embedding_dim: int | None = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if embedding_dim is not None and embedding_dim < 1:
            raise ValueError(f"`embedding_dim` must be at least 1. Received: {embedding_dim}")
        self.backbone = backbone
        self.embedding_dim = backbone.features if embedding_dim is None else embedding_dim
        self.projection = None
        if not backbone.built:
            backbone.build((None, None, None, 3))
        if embedding_dim is not None:
            self.projection = keras.layers.Dense(embedding_dim, dtype=self.dtype_policy, name="projection")
            self.projection.build((None, backbone.features))
        self.built = True

    @property
    def batch_statistics(self) -> bool:
        """Whether pictures are normalised by statistics of their batch in training, and `call` takes `valid`."""
        return self.backbone.batch_statistics

    def call(self, pictures: Any, training: bool = False, valid: Any = None) -> Any:
        """See the class."""
        x = self.normalize(pictures)
        known = {"valid": valid} if self.batch_statistics else {}
        features = self.backbone(x, training=training, **known)
        return self.project(features)

    def normalize(self, pictures: Any) -> Any:
        """What the backbone takes of pictures: float32, of the same shape."""
        mean, stddev = (ops.array(values, "float32") for values in (self.backbone.mean, self.backbone.stddev))
        return (ops.cast(pictures, "float32") - mean) / stddev

    def project(self, features: Any) -> Any:
        """The embeddings of features of the backbone: float32."""
        return ops.cast(features if self.projection is None else self.projection(features), "float32")

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
        copy = ImageEncoder(backbone, None if self.projection is None else self.embedding_dim, dtype=dtype)
        copy.set_weights(self.get_weights())
        return copy

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "embedding_dim": None if self.projection is None else self.embedding_dim,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ImageEncoder":
        """Builds an encoder from what `get_config` returned."""
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects=custom_objects)
        return cls(**{**config, "backbone": backbone})
