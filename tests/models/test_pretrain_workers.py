"""Two worker processes over loopback: the real command with `TF_CONFIG`."""

import json
import re
import signal

import keras
import numpy as np
import pytest

from models.pretrain import main as pretrain_command
from models.ranker.run import load_ranker
from models.train_ctr import main as train_ctr_command
from tests.models.taste_dataset import write_taste_dataset
from tests.models.tiny_dataset import write_tiny_dataset
from tests.models.training.command_process import (
    STEPS,
    arguments,
    encoder,
    finish,
    interrupt,
    ranker_arguments,
    start_two,
    steps_on_disk,
)

EPOCHS = 2
# Draws differ between replicas, so that there are none.
OPTIONS = {"encoder__backbone": encoder(drop_path=0.0), "augmentation": "none", "optimizer__learning_rate": 0.002}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_taste_dataset(tmp_path_factory.mktemp("shop") / "data").path


def test_two_workers_stop_together_go_on_and_learn_what_one_process_does(dataset, tmp_path):
    output, single = tmp_path / "encoder", tmp_path / "single"
    command = arguments(dataset, output, **OPTIONS, epochs=EPOCHS)
    both = start_two(command)
    interrupt(both[1], output, 3, signal.SIGTERM)  # not the one that writes
    stopped = set()
    for code, _, errors in map(finish, both):
        assert code == 143, errors
        stopped |= set(re.findall(rf"stopped by SIGTERM at step (\d+) of {EPOCHS * STEPS}", errors))
    assert stopped == {str(steps_on_disk(output)[-1])}

    (code, printed, errors), (other_code, other_printed, other_errors) = map(finish, start_two(command))
    assert (code, other_code) == (0, 0), errors + other_errors
    for text in (printed, other_printed):
        assert f"resuming at step {stopped.copy().pop()} of {EPOCHS * STEPS}" in text
    assert "wrote a courier encoder" in printed
    assert "the chief of the 2 workers writes" in other_printed
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]

    pretrain_command(arguments(dataset, single, **OPTIONS, epochs=EPOCHS))
    encoders = [keras.saving.load_model(path / "encoder.keras").get_weights() for path in (output, single)]
    for actual, expected in zip(*encoders, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    histories = [json.loads((path / "history.json").read_text()) for path in (output, single)]
    for name in ("loss", "val_loss", "val_similarity_gauc"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)


def test_a_worker_that_is_killed_takes_the_other_one_along(dataset, tmp_path):
    output = tmp_path / "encoder"
    both = start_two(arguments(dataset, output, **OPTIONS, epochs=1000))
    interrupt(both[1], output, 2, signal.SIGKILL)
    assert finish(both[1])[0] == -signal.SIGKILL
    code, _, errors = finish(both[0])
    assert code == 2, errors
    assert "error: another worker has ended; start all of them again" in errors
    assert "Traceback" not in errors
    assert steps_on_disk(output)[-1] >= 2


def test_two_workers_train_the_ranker_that_one_process_does(tmp_path):
    tiny = write_tiny_dataset(tmp_path / "tiny", items=60, pages=120)
    output, single = tmp_path / "ranker", tmp_path / "single"
    changes = {"dropout": 0.0, "epochs": 1}  # draws differ between replicas
    both = start_two(ranker_arguments(tiny, output, **changes), "models.train_ctr")
    (code, printed, errors), (other_code, other_printed, other_errors) = map(finish, both)
    assert (code, other_code) == (0, 0), errors + other_errors
    assert "wrote the ranker" in printed
    assert "the chief of the 2 workers writes" in other_printed
    train_ctr_command(ranker_arguments(tiny, single, **changes))
    for actual, expected in zip(load_ranker(output).get_weights(), load_ranker(single).get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    histories = [json.loads((path / "history.json").read_text()) for path in (output, single)]
    for name in ("val_gauc_page_mean", "val_log_loss"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)
    # Shown is the mean of the workers' means, whose numbers of candidates differ.
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-2)
