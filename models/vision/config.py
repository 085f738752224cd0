"""Configuration of image encoders."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from models.config import Config, load_config
from models.vision.backbone import Backbone
from models.vision.convnet import ConvNet
from models.vision.efficientnet_lite import EfficientNetLite
from models.vision.efficientnet_lite_weights import is_package, load_efficientnet_lite_weights
from models.vision.encoder import ImageEncoder
from models.vision.m6 import M6
from models.vision.published_weights import LoadedWeights
from models.vision.swin import Swin
from models.vision.swin_weights import load_swin_weights

Positive = Annotated[int, Field(gt=0)]


class SwinConfig(Config):
    """Arguments of `Swin`."""

    name: Literal["swin"] = "swin"
    patch_size: Positive = 4
    dim: Positive = 48
    depths: tuple[Positive, ...] = Field((2, 2), min_length=1)
    num_heads: tuple[Positive, ...] = (3, 6)
    window: Positive = 4
    mlp_ratio: float = Field(4.0, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)
    checkpointing: bool = False

    @model_validator(mode="after")
    def _heads_fit(self) -> "SwinConfig":
        if len(self.num_heads) != len(self.depths):
            raise ValueError(f"num_heads must have one value per stage of depths {list(self.depths)}")
        for stage, heads in enumerate(self.num_heads):
            if self.dim * 2**stage % heads:
                raise ValueError(f"num_heads of stage {stage} must divide its {self.dim * 2**stage} channels")
        return self


class ConvNetConfig(Config):
    """Arguments of `ConvNet`."""

    name: Literal["convnet"] = "convnet"
    widths: tuple[Positive, ...] = Field((48, 96, 192), min_length=1)
    depths: tuple[Annotated[int, Field(ge=0)], ...] = (1, 1, 1)
    kernel: Positive = 5
    grid: tuple[Positive, Positive] = (3, 2)
    drop_path: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _depths_fit(self) -> "ConvNetConfig":
        if len(self.depths) != len(self.widths):
            raise ValueError(f"depths must have one value per stage of widths {list(self.widths)}")
        return self


class EfficientNetLiteConfig(Config):
    """Arguments of `EfficientNetLite`."""

    name: Literal["efficientnet_lite"] = "efficientnet_lite"
    variant: Literal[0, 1, 2] = 0
    stages: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field((1, 2, 3, 4, 5, 6, 7, 8), min_length=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    batch_statistics: bool = False
    frozen_stages: int = Field(0, ge=0, le=8)

    @model_validator(mode="after")
    def _stages_ascend(self) -> "EfficientNetLiteConfig":
        if list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"stages must ascend. Received: {list(self.stages)}")
        if self.frozen_stages > self.stages[-1]:
            raise ValueError(f"frozen_stages must be at most {self.stages[-1]}, the last of stages")
        return self


class M6Config(Config):
    """Arguments of `M6`."""

    name: Literal["m6"] = "m6"
    patch_size: Positive = 8
    width: Positive = 64
    layers: Positive = 2
    heads: Positive = 4
    experts: Positive = 8
    hidden: Positive = 128
    k: Positive = 2
    capacity_factor: float = Field(1.25, gt=0)
    vocabulary: Positive = 20000

    @model_validator(mode="after")
    def _sizes_fit(self) -> "M6Config":
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width must be a multiple of 4 and of the {self.heads} heads. Received: {self.width}")
        if self.k > self.experts:
            raise ValueError(f"k must be at most the {self.experts} experts. Received: {self.k}")
        return self


class EncoderConfig(Config):
    """An image encoder.

    Attributes:
        embedding_dim: length of the embeddings; `null` makes the backbone's features themselves the embeddings.
        backbone: the network in front of the projection; `name` says which.
        weights: published weights to start from: a file (`swin`: torchvision's or Hugging Face's; `efficientnet_lite`:
            that of `efficientnet_lite_pytorch`), or `efficientnet_lite0`, `1` or `2` for those of an installed package.
    """

    embedding_dim: Positive | None = 256
    backbone: SwinConfig | ConvNetConfig | EfficientNetLiteConfig | M6Config = Field(
        ConvNetConfig(), discriminator="name"
    )
    weights: Path | None = None

    @model_validator(mode="after")
    def _weights_fit(self) -> "EncoderConfig":
        if self.weights is not None and self.backbone.name not in PUBLISHED:
            raise ValueError(f"weights are for the backbones {' and '.join(PUBLISHED)}. Received: {self.backbone.name}")
        if self.weights is not None and is_package(self.weights):
            variant = getattr(self.backbone, "variant", None)
            if str(self.weights) != f"efficientnet_lite{variant}":
                raise ValueError(
                    f"weights {self.weights} are for the backbone efficientnet_lite of that variant. "
                    f"Received: {self.backbone.name}" + ("" if variant is None else f" of variant {variant}")
                )
        return self


class _EncoderSection(Config):
    """The part of a pre-training's configuration that describes the encoder."""

    model_config = ConfigDict(extra="ignore")

    encoder: EncoderConfig = EncoderConfig()


_BACKBONES: dict[str, type[Backbone]] = {
    "swin": Swin,
    "convnet": ConvNet,
    "efficientnet_lite": EfficientNetLite,
    "m6": M6,
}
PUBLISHED: dict[str, Callable[[Any, Path], LoadedWeights]] = {
    "swin": load_swin_weights,
    "efficientnet_lite": load_efficientnet_lite_weights,
}
"""Backbones that there are published weights for, and what reads them."""


def build_encoder(config: EncoderConfig, dtype: str = "float32") -> ImageEncoder:
    """A new encoder with random weights.

    Args:
        config: its architecture.
        dtype: Keras policy, for example `mixed_bfloat16`.
    """
    backbone = _BACKBONES[config.backbone.name](**config.backbone.model_dump(exclude={"name"}), dtype=dtype)
    return ImageEncoder(backbone, config.embedding_dim, dtype=dtype)


def load_encoder_config(preset: str | Path) -> EncoderConfig:
    """The encoder of a pre-training's configuration.

    Args:
        preset: name of a preset in `models/configs`, or a YAML file like one.

    Raises:
        ConfigurationError: there is no such file, or its section `encoder` has mistakes.
    """
    return load_config(_EncoderSection, str(preset)).encoder


def load_pretrained(encoder: ImageEncoder, config: EncoderConfig) -> LoadedWeights | None:
    """Fills the backbone from `config.weights`, if there are any; the projection stays as it is.

    Raises:
        ArtifactError: the file or the package is missing, cannot be read or does not fit.
    """
    if config.weights is None:
        return None
    return PUBLISHED[config.backbone.name](encoder.backbone, config.weights)
