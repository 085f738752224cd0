"""Configuration of encoder pre-training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.config import Config

Positive = Annotated[int, Field(gt=0)]


class EncoderConfig(Config):
    """Arguments of `SwinEncoder`."""

    embedding_dim: Positive = 64
    patch_size: Positive = 4
    dim: Positive = 48
    depths: tuple[Positive, ...] = Field((2, 2), min_length=1)
    num_heads: tuple[Positive, ...] = (3, 6)
    window: Positive = 4
    mlp_ratio: float = Field(4.0, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> "EncoderConfig":
        if len(self.num_heads) != len(self.depths):
            raise ValueError(f"num_heads must have one value per stage of depths {list(self.depths)}")
        for stage, heads in enumerate(self.num_heads):
            if self.dim * 2**stage % heads:
                raise ValueError(f"num_heads of stage {stage} must divide its {self.dim * 2**stage} channels")
        return self


class PretrainConfig(Config):
    """How an encoder learns.

    Attributes:
        image_size: height and width that pictures are resized to.
        encoder: the architecture.
        candidates: candidates per page, clicked ones first; at most `--pretraining-candidates` of the build.
        clicks: latest clicks per page; at most `--pretraining-clicks` of the build.
        temperature: of the contrastive losses.
        scores: attention scores of the reconstruction; `scaled` divides by the square root of the length.
        augmentation: random changes of training pictures.
        batch_size: pages per step, over all devices.
        epochs: passes over the training pages. The best one on the validation pages is kept.
        learning_rate: Adam's, at its highest.
        schedule: `constant`, or `cosine`: down to 0 after a rise over the first tenth.
        validation_share: share of the pages, the latest ones, kept for validation; 0 keeps the last epoch.
        mixed_precision: compute in float16 (for GPUs).
        cache_megabytes: decoded pictures are kept in memory if they take at most this much.
        seed: of initialisation, shuffling and augmentation.
    """

    image_size: tuple[Positive, Positive] = (32, 32)
    encoder: EncoderConfig = EncoderConfig()
    candidates: Positive = 5
    clicks: Positive = 5
    temperature: float = Field(0.05, gt=0)
    scores: Literal["scaled", "raw"] = "scaled"
    augmentation: Literal["none", "flip_crop"] = "flip_crop"
    batch_size: Positive = 64
    epochs: Positive = 6
    learning_rate: float = Field(2e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    validation_share: float = Field(0.1, ge=0, lt=1)
    mixed_precision: bool = False
    cache_megabytes: int = Field(1024, ge=0)
    seed: int = 0
