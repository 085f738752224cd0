"""The real command, interrupted: `python -m models.pretrain`."""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from models.pretrain import main as pretrain_command
from models.pretraining.methods import METHODS
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
)

EPOCHS = 3
# Everything that is drawn at random, so that it must go on exactly.
OPTIONS = {"encoder__backbone": encoder(drop_path=0.3), "augmentation": "flip_crop", "epochs": EPOCHS}


def history(output: Path) -> dict[str, list[float]]:
    logs = json.loads((output / "history.json").read_text())
    return {name: values for name, values in logs.items() if name != "images_per_second"}


def assert_same_results(output: Path, whole: Path) -> None:
    encoders = [keras.saving.load_model(path / "encoder.keras").get_weights() for path in (output, whole)]
    for actual, expected in zip(*encoders, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert history(output) == history(whole)


def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path, capsys):
    dataset = write_taste_dataset(tmp_path / "data").path
    whole, output = tmp_path / "whole", tmp_path / "encoder"
    first = random.choice([step for step in range(3, 16) if step % STEPS])
    command = arguments(dataset, output, **OPTIONS)

    process = start(command)
    interrupt(process, output, first, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    killed_at = steps_on_disk(output)[-1]

    # From here on in this process: what counts is on disk. `test_pretrain_workers` ends runs by SIGTERM.
    pretrain_command(command)
    assert f"resuming at step {killed_at} of {EPOCHS * STEPS}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "encoder"]

    pretrain_command(arguments(dataset, whole, **OPTIONS, checkpoint_minutes=10))
    assert_same_results(output, whole)


TEXT = {"text__layers": 1, "text__width": 8, "text__heads": 2, "text__buckets": 50, "text__dropout": 0.2}
M6 = "{name: m6, width: 8, layers: 1, heads: 2, experts: 3, hidden: 6, vocabulary: 50}"
# What a method remembers must be at work before the kill: queues are full, prototypes learn.
SETTINGS: dict[str, dict[str, object]] = {
    "courier": {},
    "courier with titles": {"courier__titles": "true", "clip__learned_temperature": "true", **TEXT},
    "courier with hinge": {"courier__objective": "hinge", "courier__projection_head": "true"},
    "simclr": {"simclr__hidden_dim": 16},
    "simsiam": {"simsiam__projection_dim": 16},
    "moco_v2": {"moco_v2__queue_length": 64, "moco_v2__hidden_dim": 16},
    "swav": {"swav__prototypes": 8, "swav__hidden_dim": 16, "swav__freeze_steps": STEPS, "swav__queue_length": 64},
    "supervised": {"supervised__mlp_units": "[8, 4]"},
    "clip": {"clip__learned_temperature": "true", **TEXT},
    "maskclip": {"maskclip__learned_temperature": "true", "maskclip__hidden_dim": 8, **TEXT},
    "m6_moe": {"encoder__backbone": M6, "text__buckets": 50},
}
"""Of each method and of the variants that remember or draw something else, small."""

SEED = "model/seed_generator/seed_generator_state"
REMEMBERED = {
    "courier with titles": ["model/title_contrast/log_scale"],
    "courier with hinge": [SEED],
    "simclr": [SEED],
    "simsiam": [SEED],
    "moco_v2": [
        SEED,
        "model/mo_co_v2/queue",
        "model/mo_co_v2/queue_picture",
        "model/conv_net/reduction/kernel'",  # of the key encoder
        "model/key_head/dense/kernel",
    ],
    "swav": [SEED, "model/sw_av/queue", "model/sw_av/queued", "model/sw_av/prototypes", "model/sw_av/steps"],
    "clip": ["model/title_contrast/log_scale"],
    "maskclip": [
        SEED,
        "model/mask_clip/mask_token",
        "model/conv_net/reduction/kernel'",  # of the teacher of pictures
        "model/bert/tokens'",  # of the teacher of titles
    ],
    "m6_moe": [SEED],
}
"""What a method remembers besides encoders and the optimizer, some of it: arrays of its checkpoints."""


@contextlib.contextmanager
def last_checkpoints(*outputs: Path) -> Iterator[list[Path]]:
    """Copies of the newest checkpoint of each run, which a run removes when it ends; they are there at the end."""
    copies = [output.with_name(f"{output.name}.last.npz") for output in outputs]
    done = threading.Event()

    def keep() -> None:
        newest = dict.fromkeys(outputs, "")
        while not done.wait(0.005):
            for output, copy in zip(outputs, copies, strict=True):
                link = copy.with_suffix(".link")
                with contextlib.suppress(FileNotFoundError):  # when they are removed, the newest one perhaps first
                    path = max(checkpoints_of(output).glob("step-*.npz"), default=None)
                    if path is not None and path.name >= newest[output]:
                        os.link(path, link)
                        link.replace(copy)
                        link.unlink(missing_ok=True)  # two names of one file are left as they are
                        newest[output] = path.name

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield copies
    finally:
        done.set()
        keeper.join()


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a checkpoint by name, and the rest of its state without what the clock says."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    state = json.loads(str(arrays.pop("state.json")))
    state["history"].pop("images_per_second", None)
    return arrays, state


@pytest.mark.kill
@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_goes_on_exactly_where_it_was_killed(tmp_path, monkeypatch, name):
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(threads, "1")  # on several, gradients of convolutions add up in any order
    began = time.monotonic()
    method = name.split()[0]
    dataset = write_taste_dataset(tmp_path / "data").path
    whole, output = tmp_path / "whole", tmp_path / "encoder"
    commands = [
        [*arguments(dataset, path, **{**OPTIONS, **SETTINGS[name]}), "--method", method] for path in (whole, output)
    ]
    with last_checkpoints(whole, output) as last:
        unharmed, killed = map(start, commands)
        interrupt(killed, output, STEPS + STEPS // 2, signal.SIGKILL)
        assert finish(killed)[0] == -signal.SIGKILL
        killed_at = steps_on_disk(output)[-1]
        then, _ = read_checkpoint(checkpoints_of(output) / f"step-{killed_at:010d}.npz")
        resumed = start(commands[1])
        finished = [finish(process) for process in (unharmed, resumed)]
        assert [code for code, *_ in finished] == [0, 0], finished
    assert f"resuming at step {killed_at} of {EPOCHS * STEPS}" in finished[1][1]

    (expected, expected_state), (actual, actual_state) = map(read_checkpoint, last)
    assert (expected_state["epoch"], expected_state["step"]) == (EPOCHS, EPOCHS * STEPS)
    assert actual_state == expected_state
    assert actual.keys() == expected.keys()
    for array in REMEMBERED.get(name, []):
        assert (then[array] != expected[array]).any(), array  # there was something to lose
    for array, value in expected.items():
        np.testing.assert_array_equal(actual[array], value, err_msg=array)
    assert_same_results(output, whole)
    print(
        f"{name}: killed at step {killed_at} of {EPOCHS * STEPS}, {len(expected)} arrays of the last checkpoint, "
        f"the encoder and the history equal to the last bit ({time.monotonic() - began:.0f} s)"
    )


def test_every_method_is_among_those_that_are_killed():
    assert {name.split()[0] for name in SETTINGS} == METHODS.keys()
