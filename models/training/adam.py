"""Adam with either kind of weight decay."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from models.layers.table_rows import add_up_rows


@keras.saving.register_keras_serializable(package="courier")
class Adam(keras.optimizers.Adam):
    """Adam whose weight decay is `coupled` or `decoupled`, and whose clipping sees the gradient of the whole batch.

    - `coupled` adds `weight_decay * weight` to the gradient, before the moments: `torch.optim.Adam`, and what papers
      call "Adam with weight decay". Moments divide the decay by the size of the gradients.
    - `decoupled` takes `learning_rate * weight_decay * weight` off the weight: `torch.optim.AdamW`, Keras' own.

    All weights decay. Under a `tf.distribute` strategy gradients are added up over replicas before they are clipped
    (Keras clips each replica's own), and the decay is added afterwards, once.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: how strongly weights are pulled towards zero; 0 for not at all.
        weight_decay_kind: `coupled` or `decoupled`.
        **kwargs: of `keras.optimizers.Adam`; `epsilon` is PyTorch's 1e-8 unless given.

    Example:
        >>> Adam(1e-4, weight_decay=1e-6, global_clipnorm=1.0)

    Reference: Kingma & Ba, Adam, algorithm 1; Loshchilov & Hutter, Decoupled Weight Decay Regularization, algorithm 2.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.0,
        weight_decay_kind: str = "coupled",
        **kwargs: Any,
    ) -> None:
        if weight_decay < 0:
            raise ValueError(f"`weight_decay` must not be negative. Received: {weight_decay}")
        if weight_decay_kind not in ("coupled", "decoupled"):
            raise ValueError(f"`weight_decay_kind` must be 'coupled' or 'decoupled'. Received: {weight_decay_kind!r}")
        decoupled = weight_decay if weight_decay_kind == "decoupled" and weight_decay else None
        super().__init__(learning_rate, weight_decay=decoupled, **{"epsilon": 1e-8, **kwargs})
        self.weight_decay_kind = weight_decay_kind
        self.coupled_weight_decay = weight_decay if weight_decay_kind == "coupled" else 0.0

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        """Keras' method; clips what the replicas' gradients add up to."""
        if not self.global_clipnorm:
            return super()._clip_gradients(grads)
        summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, grads)
        summed = [add_up_rows(grad).values if isinstance(grad, tf.IndexedSlices) else grad for grad in summed]
        norm = tf.sqrt(sum(tf.reduce_sum(tf.square(grad)) for grad in summed))
        return tf.clip_by_global_norm(grads, self.global_clipnorm, use_norm=norm)[0]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras' method; adds the coupled decay."""
        if self.coupled_weight_decay:
            gradient = gradient + ops.cast(variable, gradient.dtype) * self.coupled_weight_decay
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "weight_decay": self.coupled_weight_decay or self.weight_decay or 0.0,
            "weight_decay_kind": self.weight_decay_kind,
        }
