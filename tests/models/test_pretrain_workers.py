"""Two worker processes over loopback: the real command with `TF_CONFIG`."""

import json
import re
import signal

import keras
import numpy as np
import pytest

from models.pretrain import main as pretrain_command
from models.ranker.run import RankerRun
from models.train_ctr import main as train_ctr_command
from tests.models.taste_dataset import write_taste_dataset
from tests.models.tiny_dataset import write_tiny_dataset
from tests.models.training.command_process import (
    STEPS,
    arguments,
    encoder,
    finish,
    interrupt,
    parts_of,
    ranker_arguments,
    start_two,
    steps_on_disk,
)

EPOCHS = 2
# Draws differ between replicas, so that there are none.
OPTIONS = {"encoder__backbone": encoder(), "augmentation": "none", "optimizer__learning_rate": 0.002}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_taste_dataset(tmp_path_factory.mktemp("shop") / "data").path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=60, pages=120)


RANKER_CHANGES = {"dropout": 0.0, "epochs": 1}  # draws differ between replicas


@pytest.fixture(scope="module")
def runs(dataset, tiny, tmp_path_factory):
    """All that the tests look at, by two pairs of workers: each starts once for two commands.

    The first pair trains a ranker, then an encoder until one worker is told to stop. The second pair goes on with it to
    its end, and trains another one, by a loss that is quick to trace, until a worker is killed.
    """
    root = tmp_path_factory.mktemp("runs")
    command = arguments(dataset, root / "encoder", **OPTIONS, epochs=EPOCHS)
    both = start_two(
        ("models.train_ctr", ranker_arguments(tiny, root / "ranker", **RANKER_CHANGES)), ("models.pretrain", command)
    )
    interrupt(both[1], root / "encoder", 3, signal.SIGTERM)  # not the one that writes
    stopped = [finish(process) for process in both]
    stopped_at = steps_on_disk(root / "encoder")
    left = {path.name for path in root.iterdir()}
    assert left - {"encoder.logs"} == {"encoder.checkpoints", "ranker"}  # curves begin when an epoch has ended

    quick = {"courier__click_sequence": "false", "courier__objective": "similarity"}
    endless = arguments(dataset, root / "endless", **OPTIONS, **quick, epochs=1000, validation_share=0)
    both = start_two(("models.pretrain", command), ("models.pretrain", endless))
    interrupt(both[1], root / "endless", 2, signal.SIGKILL)
    killed = [finish(process) for process in both]
    return root, stopped, stopped_at, killed


def test_two_workers_stop_together_go_on_and_learn_what_one_process_does(runs, dataset, tmp_path):
    root, stopped, stopped_at, resumed = runs
    steps = set()
    for code, _, errors in stopped:
        assert code == 143, errors
        steps |= set(re.findall(rf"stopped by SIGTERM at step (\d+) of {EPOCHS * STEPS}", errors))
    assert steps == {str(stopped_at[-1])}

    (code, printed), (other_code, other_printed) = (parts_of(printed)[0] for _, printed, _ in resumed)
    assert (code, other_code) == (0, 0), resumed
    for text in (printed, other_printed):
        assert f"resuming at step {stopped_at[-1]} of {EPOCHS * STEPS}" in text
    assert "wrote a courier encoder" in printed
    assert "the chief of the 2 workers writes" in other_printed
    assert sorted(path.name for path in root.glob("encoder*")) == ["encoder"]

    output, single = root / "encoder", tmp_path / "single"
    pretrain_command(arguments(dataset, single, **OPTIONS, epochs=EPOCHS))
    encoders = [keras.saving.load_model(path / "encoder.keras").get_weights() for path in (output, single)]
    for actual, expected in zip(*encoders, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    histories = [json.loads((path / "history.json").read_text()) for path in (output, single)]
    for name in ("loss", "val_loss", "val_similarity_gauc"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)


def test_a_worker_that_is_killed_takes_the_other_one_along(runs):
    root, _, _, (chief, other) = runs
    assert other[0] == -signal.SIGKILL
    code, _, errors = chief
    assert code == 2, errors
    assert "error: another worker has ended; start all of them again" in errors
    assert "Traceback" not in errors
    assert steps_on_disk(root / "endless")[-1] >= 2


def test_two_workers_train_the_ranker_that_one_process_does(runs, tiny, tmp_path):
    root, trained, _, _ = runs
    (code, printed), (other_code, other_printed) = (parts_of(printed)[0] for _, printed, _ in trained)
    assert (code, other_code) == (0, 0), trained
    assert "wrote the ranker" in printed
    assert "the chief of the 2 workers writes" in other_printed
    output, single = root / "ranker", tmp_path / "single"
    train_ctr_command(ranker_arguments(tiny, single, **RANKER_CHANGES))
    for actual, expected in zip(
        RankerRun(output).ranker().get_weights(), RankerRun(single).ranker().get_weights(), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    histories = [json.loads((path / "history.json").read_text()) for path in (output, single)]
    for name in ("val_gauc_page_mean", "val_log_loss"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)
    # Shown is the mean of the workers' means, whose numbers of candidates differ.
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-2)
