import keras
import numpy as np
import pytest
import tensorflow as tf

from models.training.distributed_fit import DistributedFit


class Sum(DistributedFit, keras.Model):
    """Adds up what it sees in training."""

    def __init__(self, build: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1)
        if build:
            self.dense.build((None, 1))
        self.seen = keras.metrics.Sum(name="seen")

    def call(self, x, training=False):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.seen.update_state(keras.ops.sum(x))
        return keras.ops.mean(y_pred)


@pytest.mark.parametrize("devices", [["CPU:0"], ["CPU:0", "CPU:1"]])
def test_fit_sees_every_batch_of_a_one_pass_dataset(devices):
    # Without collective operations: their keys clash when one process makes several strategies of the same devices.
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = Sum()
        model.compile("sgd")
    values = iter(np.arange(1, 13, dtype=np.float32).reshape(6, 2, 1))  # cannot be read twice
    data = tf.data.Dataset.from_generator(lambda: values, output_signature=tf.TensorSpec((2, 1), tf.float32))
    distributed = strategy.distribute_datasets_from_function(lambda _: data)
    history = model.fit(distributed, steps_per_epoch=6 // len(devices), verbose=0, shuffle=False).history
    assert history["seen"] == [sum(range(1, 13))]
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 6 // len(devices)


def test_layers_must_be_built():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = Sum(build=False)
        model.compile("sgd")
    with pytest.raises(ValueError, match=r"must build its layers in its constructor\. Not built: \['dense"):
        model.fit(np.zeros((4, 1), np.float32), verbose=0)


@pytest.mark.parametrize("devices", [["CPU:0"], ["CPU:0", "CPU:1"]])
@pytest.mark.parametrize(("vary", "traces"), [(True, 1), (False, 2)])
def test_a_step_is_traced_once_where_shapes_vary(devices, vary, traces):
    seen = []

    class Varying(Sum):
        shapes_vary = vary

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            seen.append(x.shape)
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = Varying()
        model.compile("sgd")
    batches = [np.ones((rows, 1), np.float32) for rows in (2, 2, 3, 3, 4, 4)]
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=tf.TensorSpec((None, 1), tf.float32))
    distributed = strategy.distribute_datasets_from_function(lambda _: data)
    model.fit(distributed, steps_per_epoch=6 // len(devices), verbose=0, shuffle=False)
    assert len(seen) == traces * len(devices)
