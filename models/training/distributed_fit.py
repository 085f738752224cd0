"""The one place that knows how Keras 3's `fit` behaves under a `tf.distribute` strategy."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras.src.utils.tracking import no_automatic_dependency_tracking
from tensorflow.python.distribute.values import PerReplicaSpec

from models.data.map_ahead import without_autotuner
from models.training.optimizer import ReplicaLossScaleOptimizer


@keras.saving.register_keras_serializable(package="courier")
class LossMean(keras.metrics.Mean):
    """The mean loss since the epoch began, when replicas report parts that add up to the loss of their common batch.

    It is a mean over examples: a batch weighs as many as its replicas hold together, so that a smaller last batch, or
    one that is divided unevenly, counts for what it holds.
    """

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            values: scalar, this replica's part of the loss times the number of replicas, as Keras' steps report it.
            sample_weight: scalar, number of examples on this replica.
        """
        context = tf.distribute.get_replica_context()
        replicas = 1 if context is None else context.num_replicas_in_sync
        if sample_weight is not None and replicas > 1:
            sample_weight = tf.cast(sample_weight, tf.float32)
            whole = context.all_reduce(tf.distribute.ReduceOp.SUM, sample_weight)
            # `Mean` multiplies by what this replica holds, the part counts for the whole batch.
            self.total.assign_add(tf.cast(values, tf.float32) * whole / replicas)
            self.count.assign_add(sample_weight)
            return
        super().update_state(values, sample_weight)


if TYPE_CHECKING:  # a mixin is what it is mixed into
    from keras import Model as _Model
else:
    _Model = object


class DistributedFit(_Model):
    """Mixin for models that train with plain `fit` under any `tf.distribute` strategy, or without one.

    What it changes in Keras:

    - Under a strategy, Keras traces the model on the first batch before training (`_maybe_symbolic_build`), which
      silently takes that batch away from a one-pass dataset. A model with this mixin creates its variables in its
      constructor instead; compiled metrics and losses are built from the shapes of the data alone. The optimizer's
      variables are made before the first step too: several replicas cannot make them inside one.
    - Keras cannot reduce the logs of a step over several workers (`reduce_per_replica`, which fails for scalars). Here
      the logs of a step are means over all replicas, the same in every worker, by one exchange of all of them.
    - What `compute_loss` returns on a replica is a part of the loss of the whole batch: the parts of all replicas add
      up to it. So does a loss given to `compile`, when replicas hold different numbers of examples too. The `loss` and
      `val_loss` of an epoch are means over its examples, see `LossMean`.
    - Keras' steps are used where another base class (`tfrs.Model`) has steps whose logs are those of the last batch.
    - Datasets are read without tf.data's autotuner, see `without_autotuner`.
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

    train_step = keras.Model.train_step
    test_step = keras.Model.test_step

    @no_automatic_dependency_tracking  # Keras lists the tracker of the loss on its own
    def compile(
        self, optimizer: str | keras.optimizers.Optimizer = "rmsprop", jit_compile: bool | str = False, **options: Any
    ) -> None:
        """Keras' `compile`.

        Args:
            optimizer: as in Keras.
            jit_compile: whether XLA compiles a step; it would do so again for each new shape of a batch.
            options: as in Keras; `steps_per_execution` must be 1.
        """
        if options.get("steps_per_execution", 1) != 1:
            raise ValueError(f"`steps_per_execution` must be 1. Received: {options['steps_per_execution']}")
        with self.distribute_strategy.scope():
            optimizer = keras.optimizers.get(optimizer)
            if self.dtype_policy.name == "mixed_float16" and not isinstance(optimizer, ReplicaLossScaleOptimizer):
                optimizer = ReplicaLossScaleOptimizer(optimizer)
            super().compile(optimizer, jit_compile=jit_compile, **options)
            self._loss_tracker = LossMean(name="loss")

    def fit(self, x: Any = None, *args: Any, validation_data: Any = None, **options: Any) -> keras.callbacks.History:
        """Keras' `fit`."""
        return super().fit(_untuned(x), *args, validation_data=_untuned(validation_data), **options)

    def evaluate(self, x: Any = None, *args: Any, **options: Any) -> Any:
        """Keras' `evaluate`."""
        return super().evaluate(_untuned(x), *args, **options)

    def predict(self, x: Any, *args: Any, **options: Any) -> Any:
        """Keras' `predict`."""
        return super().predict(_untuned(x), *args, **options)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Keras' method: compiles a loaded model as the saved one was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.prepare_fit()

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The compiled loss: this replica's part of its mean over the examples of the whole batch."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return loss
        # Keras divides the replica's own mean by the number of replicas, as if all had as many examples.
        own = tf.cast(tf.shape(tf.nest.flatten(y_pred)[0])[0], loss.dtype)
        whole = context.all_reduce(tf.distribute.ReduceOp.SUM, own)
        loss = tf.reduce_sum(loss)  # it is a scalar, but no number at all if there are no examples
        return tf.where(own > 0, loss * own * context.num_replicas_in_sync / whole, 0.0)

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

        def train(iterator: Any) -> dict[str, Any]:
            if not self.steps_to_skip:
                return step(iterator)
            self.steps_to_skip -= 1
            return {} if self.steps_to_skip else self.get_metrics_result()

        self.train_function: Any = train

    def make_test_function(self, force: bool = False) -> None:
        """Keras' hook: one validation step on every replica."""
        if self.test_function is None or force:
            self.test_function: Any = self._step_function(self.test_step)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        self.prepare_fit()
        compiled = [self._compile_metrics, self._compile_loss]
        if all(part is None or part.built for part in compiled):
            return
        if self.run_eagerly and self._distribute_strategy is None:
            return  # the first step builds them; a graph would be traced twice for it
        if iterator is not None:
            specs = iterator._distributed_dataset.element_spec
            data_batch = keras.tree.map_structure(
                lambda spec: spec._value_specs[0] if isinstance(spec, PerReplicaSpec) else spec, specs
            )
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _step_function(self, replica_step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        strategy = self.distribute_strategy

        @tf.autograph.experimental.do_not_convert
        def step(data: Any) -> dict[str, Any]:
            logs = strategy.run(replica_step, args=(data,))
            if strategy.num_replicas_in_sync == 1:
                return logs
            names = sorted(logs)  # the order differs between workers
            own = strategy.run(lambda logs: tf.stack([tf.cast(logs[name], tf.float32) for name in names]), (logs,))
            return dict(zip(names, tf.unstack(strategy.reduce("MEAN", own, axis=None)), strict=True))

        traced = self.run_eagerly or tf.config.functions_run_eagerly() or not self.shapes_vary
        if not self.run_eagerly:
            step = tf.function(step, reduce_retracing=True, jit_compile=self.jit_compile)
        on_data = self._autoconvert_optionals(step)

        def run(iterator: Any) -> dict[str, Any]:
            nonlocal traced
            if not traced:
                step.get_concrete_function(iterator.element_spec)  # calls find it
                traced = True
            return on_data(next(iterator))

        return run


def _untuned(data: Any) -> Any:
    return without_autotuner(data) if isinstance(data, tf.data.Dataset) else data
