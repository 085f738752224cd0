"""The one place that knows how Keras 3's `fit` behaves under a `tf.distribute` strategy."""

from typing import Any


class DistributedFit:
    """Mixin for models that train with plain `fit` under any `tf.distribute` strategy.

    Under a strategy, Keras' `fit` traces the model on the first batch before training (`_maybe_symbolic_build`), which
    silently takes that batch away from a one-pass dataset. A model with this mixin creates its variables in its
    constructor instead, and the tracing is left out. Its optimizer's variables are made before the first step too:
    several replicas cannot make them inside one.

    Put it before the Keras class: `class Courier(DistributedFit, keras.Model)`.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if not all(layer.built for layer in self._flatten_layers(include_self=False)):
            unbuilt = [layer.name for layer in self._flatten_layers(include_self=False) if not layer.built]
            raise ValueError(f"`{type(self).__name__}` must build its layers in its constructor. Not built: {unbuilt}")
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
