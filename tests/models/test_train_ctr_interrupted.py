"""The real command, interrupted: `python -m models.train_ctr`."""

import json
import random
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from models import train_ctr
from models.ranker.run import RankerRun
from tests.models.tiny_dataset import write_tiny_dataset
from tests.models.training.command_process import (
    checkpoints_of,
    finish,
    interrupt,
    ranker_arguments,
    start,
    steps_on_disk,
    terminate_at,
)

MODULE = "models.train_ctr"
STEPS, EPOCHS = 7, 4  # of 108 pages, 16 at a time


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=60, pages=120)


def history(run: Path) -> dict[str, list[float]]:
    return json.loads((run / "history.json").read_text())


def test_a_run_that_was_killed_ends_like_one_that_was_not(tiny, tmp_path, capsys):
    whole, output = tmp_path / "whole", tmp_path / "ranker"
    first = random.choice([step for step in range(3, 18) if step % STEPS])
    changes = {"epochs": EPOCHS, "patience": EPOCHS, "clip_norm": 1.0, "restart_embeddings": True}
    changes["ranker__attention__histories"] = "none"
    command = ranker_arguments(tiny, output, **changes)

    process = start(command, module=MODULE)
    interrupt(process, output, first, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    killed_at = steps_on_disk(output)[-1]

    # From here on in this process: what counts is on disk. `test_artifact_remote` ends a ranker's run by SIGTERM.
    train_ctr.main(command)
    assert f"resuming at step {killed_at} of {EPOCHS * STEPS}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["ranker"]

    train_ctr.main(ranker_arguments(tiny, whole, **changes, checkpoint_minutes=10))
    for actual, expected in zip(
        RankerRun(output).ranker().get_weights(), RankerRun(whole).ranker().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    assert history(output) == history(whole)
    assert RankerRun(output).ranker().calibrator == RankerRun(whole).ranker().calibrator


@pytest.mark.kill
def test_pictures_that_learn_first_go_on_where_they_were(tiny, tmp_path, capsys):
    whole, output = tmp_path / "whole", tmp_path / "ranker"
    changes = {"epochs": 1, "make__epochs": 2, "ranker__attention__histories": "none"}
    changes["ranker__attention__recent_steps"] = 0
    make = ["--image-feature", "make", "--embeddings", str(tiny.embeddings)]
    command = [*ranker_arguments(tiny, output, **changes), *make]
    first = output.with_name("ranker.make")
    terminator = threading.Thread(target=terminate_at, args=(first, 3))
    terminator.start()
    with pytest.raises(SystemExit):
        train_ctr.main(command)
    terminator.join()
    assert re.search(r"pictures learn first, alone", capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints_of(first).name]
    train_ctr.main(command)
    assert re.search(rf"resuming at step \d+ of {2 * STEPS}\n", capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["ranker"]

    train_ctr.main([*ranker_arguments(tiny, whole, **changes, checkpoint_minutes=10), *make])
    actual, expected = (RankerRun(run).ranker() for run in (output, whole))
    for mine, theirs in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert actual.items.pictures.towers[0].is_trained()
    assert history(output) == history(whole)
