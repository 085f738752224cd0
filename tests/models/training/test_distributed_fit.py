import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.training.distributed_fit import DistributedFit

ONE, TWO = ["CPU:0"], ["CPU:0", "CPU:1"]


def strategy_of(devices):
    # Without collective operations: their keys clash when one process makes several strategies of the same devices.
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())


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


@keras.saving.register_keras_serializable(package="test_distributed_fit")
class Linear(DistributedFit, keras.Model):
    """A regression whose loss is what `compile` says."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1, dtype=self.dtype_policy, name="dense")
        self.dense.build((None, 2))
        self.built = True

    def call(self, x):
        return keras.ops.cast(self.dense(x), "float32")


class OwnLoss(Linear):
    """The same regression with a loss of its own: each replica's part of the mean over the whole batch."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        squares = tf.reduce_sum(tf.square(y_pred - y))
        examples = tf.cast(tf.shape(y)[0], tf.float32)
        context = tf.distribute.get_replica_context()
        if context is not None:
            examples = context.all_reduce("SUM", examples)
        return squares / examples


class Recommender(OwnLoss, tfrs.Model):
    """`tfrs.Model` has steps of its own, whose loss is that of the last batch."""


def regression(rows=11, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)
    return x, x[:, :1] - 2 * x[:, 1:] + 0.1


def squares_of(model, x, y):
    """The squared errors of the rows, in NumPy."""
    kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in model.dense.weights)
    return np.square(x @ kernel + bias - y)[:, 0]


@pytest.mark.parametrize("devices", [ONE, TWO])
def test_fit_sees_every_batch_of_a_one_pass_dataset(devices):
    strategy = strategy_of(devices)
    with strategy.scope():
        model = Sum()
        model.compile("sgd")
    values = iter(np.arange(1, 13, dtype=np.float32).reshape(6, 2, 1))  # cannot be read twice
    data = tf.data.Dataset.from_generator(lambda: values, output_signature=tf.TensorSpec((2, 1), tf.float32))
    distributed = strategy.distribute_datasets_from_function(lambda _: data)
    history = model.fit(distributed, steps_per_epoch=6 // len(devices), verbose=0, shuffle=False).history
    assert history["seen"] == [sum(range(1, 13))]
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 6 // len(devices)


def test_datasets_are_read_without_the_autotuner():
    """Whose thread can hold up the end of an iterator for minutes."""
    tuned = []

    class Watched(Linear):
        def make_test_function(self, force=False):
            super().make_test_function(force)
            run = self.test_function
            self.test_function = lambda iterator: [tuned.append(tuning_of(iterator)), run(iterator)][1]

        def make_train_function(self, force=False):
            super().make_train_function(force)
            run = self.train_function
            self.train_function = lambda iterator: [tuned.append(tuning_of(iterator)), run(iterator)][1]

    def tuning_of(iterator):
        return iterator._dataset.options().autotune.enabled

    model = Watched()
    model.compile("sgd", loss="mse", run_eagerly=True)
    data = tf.data.Dataset.from_tensor_slices(regression(8)).batch(4)
    model.fit(data, validation_data=data, verbose=0)
    model.evaluate(data, verbose=0)
    assert set(tuned) == {False}
    assert data.options().autotune.enabled is None  # the dataset of the caller


def test_layers_must_be_built():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = Sum(build=False)
        model.compile("sgd")
    with pytest.raises(ValueError, match=r"must build its layers in its constructor\. Not built: \['dense"):
        model.fit(np.zeros((4, 1), np.float32), verbose=0)


@pytest.mark.parametrize(("devices", "vary", "traces"), [(ONE, True, 1), (ONE, False, 2), (TWO, True, 1)])
def test_a_step_is_traced_once_where_shapes_vary(devices, vary, traces):
    seen = []

    class Varying(Sum):
        shapes_vary = vary

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            seen.append(x.shape)
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    strategy = strategy_of(devices)
    with strategy.scope():
        model = Varying()
        model.compile("sgd")
    batches = [np.ones((rows, 1), np.float32) for rows in (2, 2, 3, 3, 4, 4)]
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=tf.TensorSpec((None, 1), tf.float32))
    distributed = strategy.distribute_datasets_from_function(lambda _: data)
    model.fit(distributed, steps_per_epoch=6 // len(devices), verbose=0, shuffle=False)
    assert len(seen) == traces * len(devices)


@pytest.mark.parametrize(
    ("devices", "kind", "loss"),
    [(None, Recommender, None), (ONE, OwnLoss, None), (TWO, Recommender, None), (TWO, Linear, "mse")],
)
def test_losses_are_means_over_the_examples_of_an_epoch(devices, kind, loss):
    """Batches of 4, 4 and 3 examples, which two replicas share 2 + 2, 2 + 2 and 2 + 1."""
    strategy = tf.distribute.get_strategy() if devices is None else strategy_of(devices)
    with strategy.scope():
        model = kind()
        # The last of an epoch's steps changes the weights; this rate does not change what is measured.
        model.compile(keras.optimizers.SGD(1e-9), loss=loss)
    (x, y), (later_x, later_y) = regression(), regression(seed=1)
    training, validation = (tf.data.Dataset.from_tensor_slices(xy).batch(4) for xy in [(x, y), (later_x, later_y)])
    history = model.fit(training, validation_data=validation, epochs=2, verbose=0).history
    evaluated = model.evaluate(validation, verbose=0, return_dict=True)
    np.testing.assert_allclose(history["val_loss"], [squares_of(model, later_x, later_y).mean()] * 2, rtol=1e-5)
    np.testing.assert_allclose(history["loss"], [squares_of(model, x, y).mean()] * 2, rtol=1e-5)
    assert evaluated["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-6)


def test_two_replicas_learn_from_a_compiled_loss_what_one_does():
    """Also where they share a batch unevenly, and where one of them gets nothing."""
    models = []
    for devices in (ONE, TWO):
        keras.utils.set_random_seed(0)
        with strategy_of(devices).scope():
            models.append(Linear())
            models[-1].compile(keras.optimizers.SGD(0.1), loss="mse")
    for rows in (8, 7, 1):
        before = models[0].get_weights()
        for model in models:
            model.fit(tf.data.Dataset.from_tensor_slices(regression(rows)).batch(rows), epochs=3, verbose=0)
        for one, two, start in zip(*(model.get_weights() for model in models), before, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5)
            assert np.abs(one - start).max() > 1e-3


@pytest.mark.parametrize("devices", [None, ONE, TWO])
def test_compiled_losses_and_metrics_are_measured(devices):
    strategy = tf.distribute.get_strategy() if devices is None else strategy_of(devices)
    # An object of the user may have been made anywhere.
    metrics = ["mae", keras.metrics.MeanAbsoluteError(name="object")]
    with strategy.scope():
        model = Linear()
        model.compile(keras.optimizers.SGD(1e-9), loss="mse", metrics=metrics, weighted_metrics=["mse"])
    x, y = regression()
    weights = np.linspace(0, 1, len(x), dtype=np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(4)
    history = model.fit(data, validation_data=data, epochs=2, verbose=0).history
    squares = squares_of(model, x, y)
    np.testing.assert_allclose(history["val_mae"], [np.sqrt(squares).mean()] * 2, rtol=1e-5)
    np.testing.assert_allclose(history["mae"], history["val_mae"], rtol=1e-5)
    np.testing.assert_allclose(history["object"], history["val_mae"], rtol=1e-5)
    np.testing.assert_allclose(history["val_object"], history["val_mae"], rtol=1e-5)
    np.testing.assert_allclose(history["loss"], [(squares * weights).mean()] * 2, rtol=1e-5)
    np.testing.assert_allclose(history["val_mse"], [(squares * weights).sum() / weights.sum()] * 2, rtol=1e-5)
    evaluated = model.evaluate(data, verbose=0, return_dict=True)
    for name in ("mae", "object", "loss"):
        assert evaluated[name] == pytest.approx(history[f"val_{name}"][-1])


def test_eager_fit_calls_the_model_once_a_step():
    calls = []

    class Counted(Linear):
        def call(self, x):
            calls.append(x)
            return super().call(x)

    model = Counted()
    model.compile("sgd", loss="mse", metrics=["mae"], run_eagerly=True)
    data = tf.data.Dataset.from_tensor_slices(regression(8)).batch(4)
    assert "mae" in model.fit(data, epochs=2, verbose=0).history
    assert len(calls) == 2 * 2  # none to build the metrics


@pytest.mark.parametrize(("devices", "policy"), [(None, "float32"), (ONE, "mixed_bfloat16"), (TWO, "mixed_float16")])
def test_eager_steps_do_what_graphs_do(devices, policy):
    x, y = regression(8)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    results = []
    for eagerly in (False, True):
        strategy = tf.distribute.get_strategy() if devices is None else strategy_of(devices)
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = Linear(dtype=policy)
            model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=eagerly)
        history = model.fit(data, validation_data=data, epochs=2, verbose=0).history
        results.append([*model.get_weights(), history["loss"], history["val_loss"], model.predict(data, verbose=0)])
        model.summary(print_fn=lambda text: None)
    for graph, eager in zip(*results, strict=True):
        np.testing.assert_allclose(graph, eager, rtol=1e-5 if policy == "float32" else 2e-2)


def test_stock_callbacks_on_two_replicas(tmp_path):
    """On one, `test_keras_contract` has them of every model."""
    strategy = strategy_of(TWO)
    x, y = regression(8)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)

    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = Linear()
        model.compile(keras.optimizers.Adam(0.1), loss="mse", metrics=["mae"])
    model.prepare_fit()
    variables = [*model.variables, *model.optimizer.variables]
    initial = [keras.ops.convert_to_numpy(variable) for variable in variables]

    def start_again():
        """What a new model would be, without another trace."""
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)

    model.fit(data, epochs=4, verbose=0)
    whole = model.get_weights()

    start_again()
    worst = keras.callbacks.EarlyStopping("val_loss", mode="max", patience=1, restore_best_weights=True)
    history = model.fit(
        data,
        validation_data=data,
        epochs=9,
        verbose=0,
        callbacks=[
            worst,
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_loss", mode="max", save_best_only=True),
            keras.callbacks.TensorBoard(tmp_path / "logs", histogram_freq=1, update_freq=1, write_graph=True),
        ],
    ).history
    assert len(history["loss"]) == 2
    assert list((tmp_path / "logs" / "validation").iterdir())
    saved = keras.models.load_model(tmp_path / "best.keras")
    for a, b in zip(saved.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    loss, mae = saved.evaluate(data, verbose=0)  # it is compiled as it was, its optimizer included
    assert (loss, mae) == pytest.approx((history["val_loss"][0], history["val_mae"][0]), rel=1e-5)
    assert int(saved.optimizer.iterations.numpy()) == 2

    class Fail(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    backup = keras.callbacks.BackupAndRestore
    start_again()
    with pytest.raises(InterruptedError):
        model.fit(data, epochs=4, verbose=0, callbacks=[backup(tmp_path / "backup"), Fail()])
    start_again()
    assert len(model.fit(data, epochs=4, verbose=0, callbacks=[backup(tmp_path / "backup")]).history["loss"]) == 2
    for a, b in zip(whole, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
