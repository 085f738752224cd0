"""The one place that knows how Keras 3's `fit` behaves under a `tf.distribute` strategy."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from models.training.loss_scale import ReplicaLossScaleOptimizer


class DistributedFit:
    """Mixin for models that train with plain `fit` under any `tf.distribute` strategy.

    What it changes in Keras' `fit`:

    - Under a strategy, Keras traces the model on the first batch before training (`_maybe_symbolic_build`), which
      silently takes that batch away from a one-pass dataset. A model with this mixin creates its variables in its
      constructor instead, and the tracing is left out. Its optimizer's variables are made before the first step too:
      several replicas cannot make them inside one.
    - Keras cannot reduce the logs of a step over several workers (`reduce_per_replica`, which fails for scalars). Here
      the logs of a step are means over all replicas, the same in every worker, by one exchange of all of them.
    - In `mixed_float16`, the loss is scaled by `ReplicaLossScaleOptimizer`, which heeds every replica.

    Put it before the Keras class: `class Courier(DistributedFit, keras.Model)`. A step's logs must be scalars.

    Attributes:
        shapes_vary: whether batches differ in shape. A step is then traced once, for all shapes that the dataset's
            `element_spec` allows, instead of for the first one, and again each time that a dimension first differs.
        steps_to_skip: training steps that `fit` counts without running them, because an interrupted run did. The
            metrics must already hold what they had seen then.
    """

    shapes_vary = False
    steps_to_skip = 0

    def compile(self, optimizer: str | keras.optimizers.Optimizer = "rmsprop", **options: Any) -> None:
        """Keras' `compile`."""
        if self.dtype_policy.name == "mixed_float16":
            optimizer = ReplicaLossScaleOptimizer(keras.optimizers.get(optimizer))
        super().compile(optimizer, **options)

    def prepare_fit(self) -> None:
        """Makes the optimizer's variables, as `fit` does at its start.

        Raises:
            ValueError: a layer has no variables yet.
        """
        if not all(layer.built for layer in self._flatten_layers(include_self=False)):
            unbuilt = [layer.name for layer in self._flatten_layers(include_self=False) if not layer.built]
            raise ValueError(f"`{type(self).__name__}` must build its layers in its constructor. Not built: {unbuilt}")
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> None:
        """Keras' hook: one training step on every replica."""
        if self.train_function is not None and not force:
            return
        step = self._step_function(self.train_step)

        def train(iterator: Iterator) -> dict[str, Any]:
            if not self.steps_to_skip:
                return step(iterator)
            self.steps_to_skip -= 1
            return {} if self.steps_to_skip else self.get_metrics_result()

        self.train_function = train

    def make_test_function(self, force: bool = False) -> None:
        """Keras' hook: one validation step on every replica."""
        if self.test_function is None or force:
            self.test_function = self._step_function(self.test_step)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        self.prepare_fit()

    def _step_function(self, replica_step: Callable[[Any], dict[str, Any]]) -> Callable[[Iterator], dict[str, Any]]:
        if self.steps_per_execution != 1:
            raise ValueError(f"`steps_per_execution` must be 1. Received: {self.steps_per_execution}")
        strategy = self.distribute_strategy

        @tf.autograph.experimental.do_not_convert
        def step(data: Any) -> dict[str, Any]:
            logs = strategy.run(replica_step, args=(data,))
            if strategy.num_replicas_in_sync == 1:
                return logs
            names = sorted(logs)  # the order differs between workers
            own = strategy.run(lambda logs: tf.stack([tf.cast(logs[name], tf.float32) for name in names]), (logs,))
            return dict(zip(names, tf.unstack(strategy.reduce("MEAN", own, axis=None)), strict=True))

        traced = self.run_eagerly or not self.shapes_vary
        if not self.run_eagerly:
            step = tf.function(step, reduce_retracing=True, jit_compile=self.jit_compile)
        on_data = self._autoconvert_optionals(step)

        def run(iterator: Iterator) -> dict[str, Any]:
            nonlocal traced
            if not traced:
                step.get_concrete_function(iterator.element_spec)  # calls find it
                traced = True
            return on_data(next(iterator))

        return run
