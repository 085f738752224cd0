import resource

import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.shell.progress import shown_progress
from models.training.checkpoints import Checkpoint, Checkpoints

RUN = {"batch_size": 16, "encoder.backbone.depths": (1, 2), "dataset": "a1"}


def checkpoint(step):
    return Checkpoint(step, {"model/a/kernel": np.full((50, 20), step, np.float32)}, {"epoch": step // 10})


def step_of(path, **options):
    with Checkpoints(path, RUN, **options) as checkpoints:
        latest = checkpoints.latest()
    return latest and latest.step


@pytest.fixture
def path(tmp_path):
    with Checkpoints(tmp_path / "run.checkpoints", RUN) as checkpoints:
        for step in (8, 9, 10):
            assert checkpoints.write(checkpoint(step))
    return tmp_path / "run.checkpoints"


def names(path):
    return sorted(file.name for file in path.iterdir())


def test_the_newest_comes_back_whole_and_two_are_kept(path):
    assert names(path) == ["lock", "step-0000000009.npz", "step-0000000010.npz"]
    with Checkpoints(path, RUN) as checkpoints:
        latest = checkpoints.latest()
    assert (latest.step, latest.state) == (10, {"epoch": 1})
    np.testing.assert_array_equal(latest.arrays["model/a/kernel"], np.full((50, 20), 10, np.float32))


def test_a_run_that_wrote_none_leaves_nothing_behind(tmp_path):
    assert step_of(tmp_path / "none") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_left_out_with_a_warning(path, kept):
    newest = path / "step-0000000010.npz"
    content = newest.read_bytes()
    newest.write_bytes(content[: int(kept * len(content))])
    with pytest.warns(UserWarning, match=f"{newest} is damaged"):
        assert step_of(path) == 9


def test_a_changed_byte_is_noticed(path):
    newest = path / "step-0000000010.npz"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert step_of(path) == 9


def test_if_all_are_damaged_nothing_is_thrown_away_unasked(path, capsys):
    for file in path.glob("step-*"):
        file.write_bytes(b"")
    with pytest.raises(ArtifactError, match="every checkpoint is damaged; pass `restart=True`"), shown_progress():
        step_of(path)
    assert capsys.readouterr().err.count("warning: ") == 2
    assert step_of(path, restart=True) is None
    assert not path.exists()


def test_a_write_that_fails_leaves_the_earlier_ones_whole(path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))  # as if the disk were full
    try:
        with Checkpoints(path, RUN) as checkpoints, pytest.warns(UserWarning, match="step 11 could not be written"):
            assert not checkpoints.write(checkpoint(11))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert names(path) == ["lock", "step-0000000009.npz", "step-0000000010.npz"]
    assert step_of(path) == 10


def test_what_a_killed_write_has_left_is_removed(path):
    (path / ".step-0000000011.npz.0123").write_bytes(b"half")
    assert step_of(path) == 10
    assert names(path) == ["lock", "step-0000000009.npz", "step-0000000010.npz"]


def test_a_checkpoint_of_another_run_is_refused_with_the_keys_that_differ(path):
    other = {**RUN, "batch_size": 32, "augmentation": "none"}
    message = "augmentation None there, none here; batch_size 16 there, 32 here.; repeat .* or pass `restart=True`"
    with Checkpoints(path, other) as checkpoints, pytest.raises(ArtifactError, match=message):
        checkpoints.latest()
    assert step_of(path) == 10


def test_restart_begins_without_them(path):
    with Checkpoints(path, {**RUN, "batch_size": 32}, restart=True) as checkpoints:
        assert checkpoints.latest() is None
        assert names(path) == ["lock"]


def test_two_runs_may_not_write_to_one_directory(path):
    with Checkpoints(path, RUN):
        with pytest.raises(ArtifactError, match="in use by another run"), Checkpoints(path, RUN):
            pass
        with Checkpoints(path, RUN, writes=False) as reader:
            assert reader.latest().step == 10
    assert step_of(path) == 10


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"), Checkpoints(tmp_path / "file/run", RUN):
        pass
