import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.pretraining.monitor.tensorboard import TensorBoardCurves
from models.pretraining.monitor.validation import Throughput
from tests.models.scripted_model import fit_scripted


def curve(directory, tag):
    """Steps and values."""
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()
    tensors = events.Tensors(tag)
    return [event.step for event in tensors], [float(tf.make_ndarray(event.tensor_proto)) for event in tensors]


def tags(directory):
    return set(EventAccumulator(str(directory)).Reload().Tags()["tensors"])


class History(keras.callbacks.Callback):
    """What the callbacks behind see of each epoch."""

    def __init__(self):
        super().__init__()
        self.history = {}

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class Measured(keras.callbacks.Callback):
    """Stands before the curves like the callbacks that complete the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_similarity_gauc"] = 0.5 + epoch / 10


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    training = {
        "loss": [9, 7, 5, 3, 1, 2, 4, 6, 8, 10],
        "page_view_loss": [5, 4, 3, 2, 1, 1, 2, 3, 4, 5],
        "valid_rows": [100] * 5 + [200] * 5,
        "pictures": [30, 40, 50, 20, 10, 30, 40, 50, 20, 10],
    }
    validation = {**{name: [3.0, 5.0] for name in training}, "valid_rows": [50, 50]}
    curves = TensorBoardCurves(logs, every_steps=2)
    fit_scripted(training, validation, [Measured(), curves], epochs=2)
    return logs


def test_step_curves_are_means_of_their_steps_not_of_the_epoch_so_far(directory):
    steps, losses = curve(directory / "train", "steps/page_view_loss")
    assert steps == [2, 4, 5, 7, 9, 10]  # by the number of the step in training; each epoch ends with a point
    assert losses == pytest.approx([4.5, 2.5, 1, 1.5, 3.5, 5], rel=1e-5)
    assert curve(directory / "train", "steps/loss")[1] == pytest.approx([8, 4, 1, 3, 7, 10], rel=1e-5)
    assert curve(directory / "train", "steps/learning_rate")[1] == pytest.approx([0.5, *[0.25] * 5])  # of the next step
    assert min(curve(directory / "train", "steps/images_per_second")[1]) > 0
    assert "steps/pictures" not in tags(directory / "train")


def test_the_loss_of_a_collapse_is_in_the_chart_of_the_loss(directory):
    assert curve(directory / "collapse", "steps/page_view_loss") == (
        [2, 4, 5, 7, 9, 10],
        pytest.approx([np.log(100)] * 3 + [np.log(200)] * 3, rel=1e-5),
    )
    assert curve(directory / "collapse", "epochs/page_view_loss")[1] == pytest.approx(np.log([100, 200]))
    assert curve(directory / "validation_collapse", "epochs/page_view_loss")[1] == pytest.approx(np.log([50, 50]))


def test_epoch_curves_have_training_and_validation_in_one_chart(directory):
    assert curve(directory / "train", "epochs/page_view_loss") == ([1, 2], pytest.approx([3.0, 3.0]))
    assert curve(directory / "validation", "epochs/page_view_loss") == ([1, 2], pytest.approx([4.0, 4.0]))
    assert curve(directory / "validation", "epochs/similarity_gauc") == ([1, 2], pytest.approx([0.5, 0.6]))
    assert not [tag for tag in tags(directory / "validation") if "val_" in tag]


def test_what_was_measured_before_training_is_epoch_0(tmp_path):
    curves = TensorBoardCurves(tmp_path)
    model = fit_scripted({"loss": [1, 2]})
    curves.set_model(model)
    curves.write_epoch(0, {"val_similarity_gauc": 0.5})
    assert curve(tmp_path / "validation", "epochs/similarity_gauc") == ([0], [0.5])
    assert not (tmp_path / "train").exists()


class Restored(keras.callbacks.Callback):
    """Gives the metrics what the first three steps had seen, as `fit` clears them when an epoch begins."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.scripted["loss"].update_state([5.0, 5.0, 8.0])
        self.model.scripted["pictures"].update_state(1e9)
        self.model.optimizer.iterations.assign(3)


def test_steps_of_an_earlier_process_are_not_written_again(tmp_path):
    training = {"loss": [0, 0, 0, 1, 2, 3, 4, 5], "pictures": [0, 0, 0, 64, 64, 64, 64, 64]}
    kept = History()
    callbacks = [Throughput(), kept, TensorBoardCurves(tmp_path, every_steps=2), Restored()]
    fit_scripted(training, callbacks=callbacks, skip=3)
    assert curve(tmp_path / "train", "steps/loss") == ([6, 8], pytest.approx([2.5, 4.5]))
    assert curve(tmp_path / "train", "epochs/loss")[1] == pytest.approx([33 / 8])
    assert max(curve(tmp_path / "train", "steps/images_per_second")[1]) < 1e7
    assert 0 < kept.history["images_per_second"][0] < 1e7


def test_an_epoch_that_an_earlier_process_has_trained_has_no_speed():
    kept = History()
    callbacks = [Throughput(), kept, Restored()]
    fit_scripted({"loss": [0] * 3, "pictures": [0] * 3}, {"loss": [1], "pictures": [1]}, callbacks, skip=3)
    assert kept.history == {"loss": [6.0], "val_loss": [1.0], "images_per_second": [0.0]}


class Slow(keras.callbacks.Callback):
    """Takes the time of an epoch whose steps take a while."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.02)
        self.seconds = time.monotonic() - self.start


@pytest.mark.parametrize("replicas", [1, 2])
def test_pictures_of_all_replicas_count(replicas, tmp_path):
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{number}" for number in range(replicas)], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    slow, kept = Slow(), History()
    callbacks = [slow, Throughput(), kept, TensorBoardCurves(tmp_path, every_steps=4)]
    fit_scripted({"loss": [1, 2, 3, 4], "pictures": [10] * 4}, callbacks=callbacks, strategy=strategy)
    expected = pytest.approx(40 * replicas / slow.seconds, rel=0.1)
    assert kept.history["images_per_second"] == [expected]
    assert curve(tmp_path / "train", "steps/images_per_second")[1] == [expected]
    assert curve(tmp_path / "train", "steps/loss") == ([4], pytest.approx([2.5]))


def test_unusable_arguments():
    with pytest.raises(ValueError, match=r"`every_steps` must be at least 1\. Received: 0"):
        TensorBoardCurves("logs", every_steps=0)
