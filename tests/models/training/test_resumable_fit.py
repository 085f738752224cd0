import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.shell.progress import shown_progress
from models.data.map_ahead import map_ahead
from models.training.checkpoints import Checkpoints
from models.training.distributed_fit import DistributedFit
from models.training.lazy_adam import LazyAdam
from models.training.resumable_fit import resumable_fit

STEPS, EPOCHS = 4, 3
ONE, TWO = ["CPU:0"], ["CPU:0", "CPU:1"]


class Noisy(DistributedFit, keras.Model):
    """Learns with dropout, and measures something besides the loss."""

    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(units, dtype=self.dtype_policy)
        self.dropout = keras.layers.Dropout(0.5, seed=3, dtype=self.dtype_policy)
        self.out = keras.layers.Dense(1, dtype=self.dtype_policy)
        self.hidden.build((None, 3))
        self.dropout.build((None, units))
        self.out.build((None, units))
        self.largest = keras.metrics.Mean(name="largest")
        self.built = True

    def call(self, x, training=False):
        return self.out(self.dropout(self.hidden(x), training=training))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.largest.update_state(keras.ops.max(y_pred))
        return keras.ops.mean(keras.ops.square(keras.ops.cast(y_pred, "float32") - x[:, :1]))


def strategy_of(devices):
    # Without collective operations: their keys clash when one process makes several strategies of the same devices.
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())


def train(
    path,
    *,
    devices=ONE,
    policy="float32",
    graph=False,
    units=5,
    callbacks=(),
    bad_step=None,
    bad=np.nan,
    validate=False,
    **options,
):
    """Trains from the seed on, or from the checkpoints at `path`; returns the model's weights and the history.

    Eager steps are enough where the step itself is not the point: a graph takes longer to make than all of them.
    """
    keras.utils.set_random_seed(0)
    strategy = strategy_of(devices)
    with strategy.scope():
        model = Noisy(units, dtype=policy)
        model.compile(LazyAdam(0.01, average=True), run_eagerly=not graph)

    def batches(first):
        def values(number):  # of a replica
            values = tf.random.stateless_normal((4, 3), tf.stack([number, 0]))
            spoilt = len(devices) * bad_step - 1 if bad_step else -1  # the last replica of the step
            return tf.where(number == spoilt, bad, values)

        numbers = tf.data.Dataset.range(first * len(devices), 10_000)
        return strategy.distribute_datasets_from_function(lambda _: map_ahead(numbers, values))

    if validate:
        options |= {"validation_data": batches(1000), "validation_steps": 2, "monitor": "val_loss"}
    with Checkpoints(path, {"seed": 0}) as checkpoints, shown_progress():
        history = resumable_fit(
            model,
            batches,
            checkpoints,
            steps_per_epoch=STEPS,
            epochs=EPOCHS,
            checkpoint_minutes=0,
            callbacks=callbacks,
            **options,
        )
    return model.get_weights(), history


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends training at a step, before its checkpoint is written; remembers the steps it saw."""

    def __init__(self, epoch=None, batch=None, call=None):
        super().__init__()
        self.at, self.call, self.seen = (epoch, batch), call, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((self.epoch, batch))
        if (self.epoch, batch) == self.at:
            (self.call or self.fail)()

    def on_test_begin(self, logs=None):
        if (self.epoch, "test") == self.at:
            self.fail()

    def fail(self):
        raise Killed


@pytest.mark.parametrize(
    ("devices", "policy", "kills", "resumed"),
    [
        (ONE, "float32", [(0, 2), (1, 0), (1, "test"), (2, 3)], [2, 4, 8, 11]),
        (TWO, "mixed_float16", [(1, 2)], [6]),
    ],
)
def test_an_interrupted_run_ends_like_a_whole_one(tmp_path, capsys, devices, policy, kills, resumed):
    options = {"devices": devices, "policy": policy, "graph": policy != "float32", "validate": True}
    expected, expected_history = train(tmp_path / "whole", **options)
    for at in kills:
        with pytest.raises(Killed):
            train(tmp_path / "run", callbacks=[Kill(*at)], **options)
    rest = Kill()
    actual, history = train(tmp_path / "run", callbacks=[rest], **options)
    assert rest.seen == [divmod(step, STEPS) for step in range(resumed[-1], STEPS * EPOCHS)]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming")] == [
        f"resuming at step {step} of 12" for step in resumed
    ]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert history.keys() == expected_history.keys()
    for name, values in history.items():
        assert len(values) == EPOCHS
        # The restored metrics are divided anew between the replicas.
        np.testing.assert_allclose(values, expected_history[name], rtol=0 if devices == ONE else 1e-6)


def test_the_best_epoch_before_an_interruption_wins(tmp_path):
    class Falling(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = -epoch
            if epoch == 0:
                self.first = self.model.get_weights()

    falling = Falling()
    with pytest.raises(Killed):
        train(tmp_path / "run", monitor="score", callbacks=[falling, Kill(2, 1)])
    best, history = train(tmp_path / "run", monitor="score", callbacks=[Falling()])
    assert history["score"] == [0, -1, -2]
    for a, b in zip(best, falling.first, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_end_of_an_epoch_sees_averages_and_the_best_ones_are_kept(tmp_path, policy):
    """Checkpoints hold the weights themselves: interrupted runs above would not end alike otherwise."""

    class See(keras.callbacks.Callback):
        averages, own = {}, {}

        def on_train_batch_end(self, batch, logs=None):
            self.last = self.model.get_weights()

        def on_epoch_end(self, epoch, logs=None):
            self.averages[epoch], self.own[epoch] = self.model.get_weights(), self.last
            logs["score"] = -abs(epoch - 1)

    see = See()
    best, _ = train(tmp_path / "run", policy=policy, monitor="score", callbacks=[see])
    for weight, average, own in zip(best, see.averages[1], see.own[1], strict=True):
        np.testing.assert_array_equal(weight, average)
        assert np.abs(average - own).max() > 1e-3


def test_sigterm_finishes_the_step_and_leaves_with_its_own_code(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        train(tmp_path / "run", callbacks=[Kill(1, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert "stopped by SIGTERM at step 6 of 12" in capsys.readouterr().err
    expected, _ = train(tmp_path / "whole")
    actual, _ = train(tmp_path / "run")
    np.testing.assert_array_equal(actual[0], expected[0])
    assert "resuming at step 6 of 12" in capsys.readouterr().out


@pytest.mark.parametrize("devices", [ONE, TWO])
def test_a_loss_that_is_not_finite_stops_at_its_step(tmp_path, devices):
    message = "the loss is nan at step 7 of 12; the checkpoint of step 6 is kept in .*run"
    with pytest.raises(InputError, match=message):
        train(tmp_path / "run", devices=devices, bad_step=7)
    assert max(path.name for path in (tmp_path / "run").glob("step-*")) == "step-0000000006.npz"
    train(tmp_path / "run", devices=devices)  # goes on with better data


def test_an_overflow_on_any_replica_leaves_a_float16_step_out(tmp_path):
    options = {"devices": TWO, "policy": "mixed_float16", "graph": True}
    weights, history = train(tmp_path / "run", bad_step=7, bad=200.0, **options)
    assert np.isfinite(history["loss"]).all()
    others, _ = train(tmp_path / "other", bad_step=7, bad=201.0, **options)
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)  # the step did not count


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.out.bias.assign([np.inf])

    with pytest.raises(InputError, match=r"model/.*bias is not finite at step 3 of 12; the checkpoint of step 2"):
        train(tmp_path / "run", callbacks=[Break()])


def test_the_best_epoch_is_never_chosen_by_nan_and_other_undefined_logs_are_none(tmp_path):
    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            logs["score"], logs["other"] = (np.nan if epoch else 0.5), np.nan

    with pytest.raises(InputError, match="score, by which the best epoch is chosen, is undefined after epoch 2"):
        train(tmp_path / "run", monitor="score", callbacks=[Log()])
    with pytest.raises(Killed):
        train(tmp_path / "other", callbacks=[Log(), Kill(1, 1)])
    _, history = train(tmp_path / "other", callbacks=[Log()])  # reads what the checkpoint says of the first epoch
    assert set(history["other"]) == {None}
    assert len(history["other"]) == len(history["loss"])


def test_a_model_of_another_shape_is_refused_with_what_differs(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path / "run", callbacks=[Kill(1, 1)])
    with pytest.raises(ArtifactError, match="another shape: ") as refused:
        train(tmp_path / "run", units=6)
    differing = str(refused.value).split("shape: ")[1].split("; ")
    assert "model/dense/kernel (3, 5) there, (3, 6) here" in differing
    assert "optimizer/lazy_adam/model/dense/kernel/momentum (3, 5) there, (3, 6) here" in differing
    assert not any("dense_1/bias" in line for line in differing)  # its shape is the same
