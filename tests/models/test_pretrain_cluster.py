"""Two worker processes that share an S3 and nothing else: each has a home, scratch files and copies of its own."""

import re
import shutil
import signal

import numpy as np
import pytest

from beam_pipelines.format.contents import Contents
from beam_pipelines.format.location import as_location, entries
from beam_pipelines.format.outputs import whole_directory
from models.vision.encoder_run import EncoderRun
from tests.models.taste_dataset import write_taste_dataset
from tests.models.training.command_process import (
    STEPS,
    arguments,
    encoder,
    finish,
    interrupt,
    parts_of,
    start_two,
    steps_on_disk,
)

pytestmark = pytest.mark.cluster

EPOCHS = 2
OPTIONS = {"encoder__backbone": encoder(), "augmentation": "none", "optimizer__learning_rate": 0.002, "epochs": EPOCHS}


def test_two_workers_that_share_a_store_alone_learn_what_they_learn_on_paths(s3_server, tmp_path, monkeypatch):
    monkeypatch.setenv("COURIER_CACHE", str(tmp_path / "cache"))
    local = write_taste_dataset(tmp_path / "data").path
    data, output = f"{s3_server}/two-workers/data", as_location(f"{s3_server}/two-workers/encoder")
    with whole_directory(as_location(data)) as scratch:
        shutil.copytree(local, scratch, dirs_exist_ok=True)
    command = ("models.pretrain", arguments(data, output, **OPTIONS))

    both = start_two(
        ("models.pretrain", arguments(local, tmp_path / "encoder", **OPTIONS)),
        command,
        machines=[tmp_path / "machine-1", tmp_path / "machine-2"],
    )
    interrupt(both[0], output, 3, signal.SIGKILL)  # the one that writes
    killed = [finish(process) for process in both]
    assert killed[0][0] == -signal.SIGKILL
    assert killed[1][0] == 2, killed[1]
    assert "error: another worker has ended" in killed[1][2]
    for code, printed in (parts_of(printed)[0] for _, printed, _ in killed):
        assert code == 0, printed
    killed_at = steps_on_disk(output)[-1]

    both = start_two(command, machines=[tmp_path / "machine-3", tmp_path / "machine-4"])
    (code, printed, errors), (other_code, other_printed, _) = (finish(process) for process in both)
    assert (code, other_code) == (0, 0), errors
    for text in (printed, other_printed):
        assert f"resuming at step {killed_at} of {EPOCHS * STEPS}" in text
    assert re.search(rf"wrote a courier encoder to {output} ", printed)
    assert "the chief of the 2 workers writes" in other_printed
    left = sorted(path.name for path in entries(output.parent))
    assert left == ["data", "encoder"]

    runs = [EncoderRun.load(tmp_path / "encoder"), EncoderRun.load(output)]
    for expected, actual in zip(*(run.encoder().get_weights() for run in runs), strict=True):
        np.testing.assert_array_equal(actual, expected)
    histories = [{name: values for name, values in run.history.items() if "per_second" not in name} for run in runs]
    assert histories[0] == histories[1]
    assert any(file.path.startswith("logs/train/") for file in Contents.read(output).files)  # curves came along
    caches = [tmp_path / f"machine-{n}" / ".cache" / "courier-ranking" for n in (1, 2, 3, 4)]
    assert all(list(cache.rglob("*.array_record")) for cache in caches)
