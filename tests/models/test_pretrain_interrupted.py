"""The real command, interrupted: `python -m models.pretrain`."""

import json
import random
import re
import signal
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

from models.pretrain import main as pretrain_command
from tests.models.taste_dataset import write_taste_dataset
from tests.models.training.command_process import (
    STEPS,
    arguments,
    checkpoints_of,
    encoder,
    finish,
    interrupt,
    start,
    steps_on_disk,
    terminate_at,
)

EPOCHS = 3
# Everything that is drawn at random, so that it must go on exactly.
OPTIONS = {"encoder__backbone": encoder(drop_path=0.3), "augmentation": "flip_crop", "epochs": EPOCHS}


def history(output: Path) -> dict[str, list[float]]:
    logs = json.loads((output / "history.json").read_text())
    return {name: values for name, values in logs.items() if name != "images_per_second"}


def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path, capsys):
    dataset = write_taste_dataset(tmp_path / "data").path
    whole, output = tmp_path / "whole", tmp_path / "encoder"
    first, second = sorted(random.sample([step for step in range(3, 16) if step % STEPS], 2))
    command = arguments(dataset, output, **OPTIONS)

    process = start(command)
    interrupt(process, output, first, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    killed_at = steps_on_disk(output)[-1]

    # From here on in this process: what counts is on disk.
    terminator = threading.Thread(target=terminate_at, args=(output, max(second, killed_at + 1)))
    terminator.start()
    with pytest.raises(SystemExit) as left:
        pretrain_command(command)
    terminator.join()
    printed, errors = capsys.readouterr()
    assert left.value.code == 143
    assert f"resuming at step {killed_at} of {EPOCHS * STEPS}" in printed
    (stopped_at,) = re.findall(rf"stopped by SIGTERM at step (\d+) of {EPOCHS * STEPS}", errors)
    assert steps_on_disk(output)[-1] == int(stopped_at)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", checkpoints_of(output).name, "encoder.logs"]

    pretrain_command(command)
    assert f"resuming at step {stopped_at} of {EPOCHS * STEPS}" in capsys.readouterr().out
    assert not checkpoints_of(output).exists()

    pretrain_command(arguments(dataset, whole, **OPTIONS, checkpoint_minutes=10))
    encoders = [keras.saving.load_model(path / "encoder.keras").get_weights() for path in (output, whole)]
    for actual, expected in zip(*encoders, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert history(output) == history(whole)
