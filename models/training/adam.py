"""Adam with either kind of weight decay."""

from typing import Any

import keras
import tensorflow as tf

from models.layers.table_rows import add_up_rows, own_copy


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
        **kwargs: of `keras.optimizers.Adam`, except `amsgrad`; `epsilon` is PyTorch's 1e-8 unless given.

    Raises:
        ValueError: a value is impossible.

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
        if kwargs.get("amsgrad"):
            raise ValueError("`Adam` has no `amsgrad`. Received: amsgrad=True")
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

    def _backend_update_step(self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any) -> None:
        """Keras' method; finds once what all variables need."""
        super()._backend_update_step(grads, trainable_variables, self._rates(learning_rate))

    def _rates(self, learning_rate: Any) -> Any:
        """What `update_step` gets as its learning rate; here, it has the bias correction of this step in it."""
        step = tf.cast(self.iterations + 1, tf.float32)
        return tf.cast(learning_rate, tf.float32) * tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras' method: changes a variable.

        Adam's equations in one pass; those of Keras take twelve and as many scalars, of which each costs more than its
        sums in a small variable.
        """
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        if self.coupled_weight_decay:
            gradient += tf.convert_to_tensor(variable) * self.coupled_weight_decay
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=own_copy(self._momentums[index]).handle,
            v=own_copy(self._velocities[index]).handle,
            beta1_power=tf.zeros((), variable.dtype),
            beta2_power=tf.zeros((), variable.dtype),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=gradient,
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "weight_decay": self.coupled_weight_decay or self.weight_decay or 0.0,
            "weight_decay_kind": self.weight_decay_kind,
        }
