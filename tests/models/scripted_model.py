"""A Keras model whose metrics take the values that its batches say, so that tests know every number of a `fit`."""

import keras
import tensorflow as tf

from models.training.distributed_fit import DistributedFit


class ScriptedModel(DistributedFit, keras.Model):
    """Each step's batch is a dictionary of metric names and values; `pictures` is summed, all others are averaged."""

    def __init__(self, names):
        super().__init__()
        kinds = {name: keras.metrics.Sum if name == "pictures" else keras.metrics.Mean for name in names}
        self.scripted = {name: kind(name=name) for name, kind in kinds.items()}
        self.weight = self.add_weight(shape=(), name="weight")
        self.built = True
        self.compile(keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.5, 0.25])))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        self.optimizer.apply([tf.zeros(())])
        return self.test_step(data)

    def test_step(self, data):
        for name, metric in self.scripted.items():
            metric.update_state(data[name])
        return {name: metric.result() for name, metric in self.scripted.items()}

    @property
    def metrics(self):
        return list(self.scripted.values())


def fit_scripted(training, validation=None, callbacks=(), epochs=1, strategy=None, skip=0):
    """Fits on step values `{name: [value of each step, over all epochs]}`; `validation` likewise, for each epoch.

    Args:
        strategy: its replicas take turns.
        skip: steps that an earlier process has made; the callbacks must restore the metrics.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = ScriptedModel(training)
    model.steps_to_skip = skip
    options = {} if validation is None else {"validation_data": _batches(validation, strategy)}
    model.fit(
        _batches({name: values[skip:] for name, values in training.items()}, strategy),
        steps_per_epoch=len(next(iter(training.values()))) // epochs,
        validation_steps=None if validation is None else len(next(iter(validation.values()))),
        epochs=epochs,
        callbacks=list(callbacks),
        shuffle=False,
        verbose=0,
        **options,
    )
    return model


def _batches(values, strategy):
    floats = {name: tf.constant(value, tf.float32) for name, value in values.items()}
    batches = tf.data.Dataset.from_tensor_slices(floats).repeat()
    return strategy.distribute_datasets_from_function(lambda _: batches)
