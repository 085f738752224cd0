"""Lazy Adam: a step reads and changes only the table rows that its batch looks up."""

from typing import Any

import keras
import tensorflow as tf

from models.training.adam import Adam
from models.training.table_rows import add_up_rows, gather_rows

_DENSE_OPTIONS = ("amsgrad", "clipnorm", "clipvalue", "gradient_accumulation_steps", "loss_scale_factor", "use_ema")


@keras.saving.register_keras_serializable(package="courier")
class LazyAdam(Adam):
    """`Adam` whose steps do not grow with the number of rows of embedding tables.

    Where the gradient of a variable is a `tf.IndexedSlices`, as that of `gather_rows` is, rows without a gradient keep
    their weights and their moments, and do not decay. `Adam` shrinks the moments of all rows in each step, and goes on
    moving rows that it no longer sees. The other rows follow Adam's equations, with the bias correction of the global
    step; where every row has a gradient in every step, both are the same. Dense gradients are treated as in `Adam`.

    Args:
        learning_rate, weight_decay, weight_decay_kind: as in `Adam`.
        **kwargs: of `keras.optimizers.Adam`, except those that need whole tables.

    Raises:
        ValueError: an option that needs whole tables is set.

    Example:
        >>> LazyAdam(1e-3, weight_decay=1e-6, global_clipnorm=1.0)

    Reference: Kingma & Ba, Adam, algorithm 1, row by row.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.0,
        weight_decay_kind: str = "coupled",
        **kwargs: Any,
    ) -> None:
        refused = [name for name in _DENSE_OPTIONS if kwargs.get(name)]
        if refused:
            raise ValueError(f"`LazyAdam` has no options that need whole tables. Received: {', '.join(refused)}")
        super().__init__(learning_rate, weight_decay, weight_decay_kind, **kwargs)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Keras' method, for decoupled decay; left to `update_step`, which knows the rows."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras' method: changes a variable, or the rows of it that have a gradient."""
        learning_rate = tf.cast(learning_rate, variable.dtype)
        decay = self.weight_decay * learning_rate if self.weight_decay else None
        if not isinstance(gradient, tf.IndexedSlices):
            if decay is not None:
                self.assign_sub(variable, variable * decay)
            super().update_step(gradient, variable, learning_rate)
            return

        gradient = add_up_rows(gradient)
        rows, gradient = gradient.indices, tf.cast(gradient.values, variable.dtype)
        weight = gather_rows(variable, rows)
        if self.coupled_weight_decay:
            gradient += weight * self.coupled_weight_decay
        if decay is not None:
            weight -= weight * decay

        index = self._get_variable_index(variable)
        momentum = gather_rows(self._momentums[index], rows)
        momentum += (gradient - momentum) * (1 - self.beta_1)
        velocity = gather_rows(self._velocities[index], rows)
        velocity += (tf.square(gradient) - velocity) * (1 - self.beta_2)
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = learning_rate * tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        weight -= rate * momentum / (tf.sqrt(velocity) + self.epsilon)

        self.assign(self._momentums[index], tf.IndexedSlices(momentum, rows))
        self.assign(self._velocities[index], tf.IndexedSlices(velocity, rows))
        self.assign(variable, tf.IndexedSlices(weight, rows))
