"""The optimizer of a training: its configuration, and loss scaling for float16 on several replicas."""

from typing import Any, Literal

import keras
import tensorflow as tf
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


@keras.saving.register_keras_serializable(package="courier")
class ReplicaLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Leaves a step out if the gradients of any replica are not finite.

    Keras looks at those of the first replica alone, before they are added up: an overflow on another one would end in
    the weights.

    Args:
        inner_optimizer, initial_scale, dynamic_growth_steps: see `keras.optimizers.LossScaleOptimizer`.
    """

    def check_finite(self, grads: list[Any]) -> Any:
        """Whether the gradients of all replicas are finite: a bool scalar, the same on each."""
        finite = super().check_finite(grads)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return finite
        return tf.equal(context.all_reduce("SUM", tf.cast(finite, tf.int32)), context.num_replicas_in_sync)


def _learning_rate(
    config: OptimizerConfig, total_steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if config.schedule == "constant":
        return config.learning_rate
    warmup = max(1, total_steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, total_steps - warmup), warmup_target=config.learning_rate, warmup_steps=warmup
    )
