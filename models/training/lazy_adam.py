"""Lazy Adam: a step reads and changes only the table rows that its batch looks up."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from models.layers.table_rows import add_up_rows, gather_rows
from models.training.adam import Adam

_POWER = 9
_STEPS = 2.0**12  # so that the powers of 1 to 7e7 steps are numbers of float32
_DENSE_OPTIONS = ("amsgrad", "clipnorm", "clipvalue", "gradient_accumulation_steps", "loss_scale_factor", "use_ema")


@keras.saving.register_keras_serializable(package="courier")
class LazyAdam(Adam):
    """`Adam` whose steps do not grow with the number of rows of embedding tables.

    Where the gradient of a variable is a `tf.IndexedSlices`, as that of `gather_rows` is, rows without a gradient keep
    their weights and their moments, and do not decay. `Adam` shrinks the moments of all rows in each step, and goes on
    moving rows that it no longer sees. The other rows follow Adam's equations, with the bias correction of the global
    step; where every row has a gradient in every step, both are the same. Dense gradients are treated as in `Adam`.

    With `average`, it also knows a mean of the weights after each step, which `averaged_weights` gives to a model. Of
    `t` steps, the first `k` have `(k / t) ** 9` of the weight in it: it follows the newest tenth, however long training
    has run. By parts,

        average = weight - sum over steps k of ((k - 1) / t) ** 9 * (change of the weight by step k),

    a sum to which rows that do not change contribute nothing.

    Args:
        learning_rate, weight_decay, weight_decay_kind: as in `Adam`.
        average: whether it keeps the average.
        **kwargs: of `keras.optimizers.Adam`, except those that need whole tables.

    Raises:
        ValueError: an option that needs whole tables is set.

    Example:
        >>> LazyAdam(1e-3, weight_decay=1e-6, global_clipnorm=1.0)

    Reference: Kingma & Ba, Adam, algorithm 1, row by row; Shamir & Zhang, Stochastic Gradient Descent for Non-smooth
    Optimization (ICML 2013), polynomial-decay averaging.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.0,
        weight_decay_kind: str = "coupled",
        average: bool = False,
        **kwargs: Any,
    ) -> None:
        refused = [name for name in _DENSE_OPTIONS if kwargs.get(name)]
        if refused:
            raise ValueError(f"`LazyAdam` has no options that need whole tables. Received: {', '.join(refused)}")
        super().__init__(learning_rate, weight_decay, weight_decay_kind, **kwargs)
        self.average = average
        self._lags: list[keras.Variable] = []

    def build(self, variables: list[Any]) -> None:
        """Keras' method: makes the moments and what averages are found from."""
        if self.built:
            return
        super().build(variables)
        if self.average:
            self._lags = self.add_optimizer_variables(variables, "lag")

    def averages(self) -> list[tf.Tensor]:
        """The average of each weight, in the order that the optimizer was built with."""
        done = _power(self.iterations)
        pairs = zip(self._trainable_variables, self._lags, strict=True)
        return [
            tf.convert_to_tensor(weight) - tf.math.divide_no_nan(tf.convert_to_tensor(lag), done)
            for weight, lag in pairs
        ]

    def restart_average(self) -> None:
        """Lets the average begin anew, as if the weights had been what they are all along."""
        for lag in self._lags:
            lag.assign(keras.ops.zeros_like(lag))

    def forget(self, variables: list[keras.Variable]) -> None:
        """Lets moments and averages of some variables begin anew, as if these had never changed."""
        for index in map(self._get_variable_index, variables):
            lags = [self._lags[index]] if self.average else []
            for slot in (self._momentums[index], self._velocities[index], *lags):
                slot.assign(keras.ops.zeros_like(slot))

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Keras' method, for decoupled decay; left to `update_step`, which knows the rows."""

    def _rates(self, learning_rate: Any) -> "_Rates":
        """What a step needs for all variables."""
        decay = self.weight_decay * tf.cast(learning_rate, tf.float32) if self.weight_decay else None
        return _Rates(super()._rates(learning_rate), decay, _power(self.iterations))

    def update_step(self, gradient: Any, variable: Any, learning_rate: "_Rates") -> None:
        """Keras' method: changes a variable, or the rows of it that have a gradient."""
        rates = _Rates(*(None if rate is None else tf.cast(rate, variable.dtype) for rate in learning_rate))
        index = self._get_variable_index(variable)
        lag = self._lags[index] if self.average else None
        if isinstance(gradient, tf.IndexedSlices):
            self._update_rows(gradient, variable, _Slots(self._momentums[index], self._velocities[index], lag), rates)
        else:
            self._update_dense(gradient, variable, lag, rates)

    def _update_dense(
        self, gradient: tf.Tensor, variable: tf.Variable, lag: keras.Variable | None, rates: "_Rates"
    ) -> None:
        before = tf.identity(variable)
        if rates.decay is not None:
            self.assign_sub(variable, before * rates.decay)
        super().update_step(gradient, variable, rates.learning)
        if lag is not None:
            self.assign_add(lag, rates.lag * (variable - before))

    def _update_rows(self, gradient: tf.IndexedSlices, variable: tf.Variable, slots: "_Slots", rates: "_Rates") -> None:
        gradient = add_up_rows(gradient)
        rows, gradient = gradient.indices, tf.cast(gradient.values, variable.dtype)
        weight: Any = gather_rows(variable, rows) if self.coupled_weight_decay or rates.decay is not None else None
        if self.coupled_weight_decay:
            gradient += weight * self.coupled_weight_decay
        # Every pass over the rows counts.
        m = gather_rows(slots.momentum, rows)
        m += (gradient - m) * (1 - tf.cast(self.beta_1, variable.dtype))
        v = gather_rows(slots.velocity, rows)
        v += (tf.square(gradient) - v) * (1 - tf.cast(self.beta_2, variable.dtype))
        change = m * -rates.learning / (tf.sqrt(v) + self.epsilon)
        if rates.decay is not None:
            change -= weight * rates.decay
        self.assign(slots.momentum, tf.IndexedSlices(m, rows))
        self.assign(slots.velocity, tf.IndexedSlices(v, rows))
        self.assign_add(variable, tf.IndexedSlices(change, rows))
        if slots.lag is not None:
            self.assign_add(slots.lag, tf.IndexedSlices(rates.lag * change, rows))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "average": self.average}


class _Slots(NamedTuple):
    """What the optimizer keeps of a variable: its moments, and what its average is found from, `None` without it."""

    momentum: keras.Variable
    velocity: keras.Variable
    lag: keras.Variable | None


class _Rates(NamedTuple):
    """What a step needs for all variables, scalars.

    Attributes:
        learning: the learning rate with Adam's bias correction.
        decay: share that decoupled decay takes off a weight; `None` without it.
        lag: what a change of this step counts in the sum that averages are found from.
    """

    learning: tf.Tensor
    decay: tf.Tensor | None
    lag: tf.Tensor


def _power(steps: tf.Tensor) -> tf.Tensor:
    return (tf.cast(steps, tf.float32) / _STEPS) ** _POWER
