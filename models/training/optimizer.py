"""Configuration of the optimizer."""

from typing import Literal

import keras
from pydantic import Field

from models.config import Config
from models.training.adam import Adam


class OptimizerConfig(Config):
    """Adam and its learning rate. The defaults are COURIER's (appendix E).

    Attributes:
        learning_rate: at its highest.
        schedule: `constant`, or `cosine`: down to 0 after a rise over the first tenth.
        weight_decay: 0 for none.
        weight_decay_kind: `coupled`, added to the gradient as `torch.optim.Adam` does, or `decoupled`, as AdamW does.
        clip_norm: gradients of the whole batch are scaled down to this length; null for none.
    """

    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(1e-6, ge=0)
    weight_decay_kind: Literal["coupled", "decoupled"] = "coupled"
    clip_norm: float | None = Field(None, gt=0)


def build_optimizer(config: OptimizerConfig, total_steps: int) -> Adam:
    """A new optimizer.

    Args:
        config: its values.
        total_steps: of the whole training, for the schedule.
    """
    return Adam(
        _learning_rate(config, total_steps),
        weight_decay=config.weight_decay,
        weight_decay_kind=config.weight_decay_kind,
        global_clipnorm=config.clip_norm,
    )


def _learning_rate(
    config: OptimizerConfig, total_steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if config.schedule == "constant":
        return config.learning_rate
    warmup = max(1, total_steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, total_steps - warmup), warmup_target=config.learning_rate, warmup_steps=warmup
    )
