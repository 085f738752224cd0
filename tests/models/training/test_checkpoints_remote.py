"""Checkpoints in a store, by the file system that fsspec keeps in memory."""

import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import as_location, entries
from models.training.checkpoints import Checkpoint, Checkpoints

RUN = {"batch_size": 16, "dataset": "a1"}


def checkpoint(step):
    return Checkpoint(step, {"kernel": np.full((5, 2), step, np.float32)}, {"epoch": step // 10})


def latest_step(path, **options):
    with Checkpoints(path, RUN, **options) as checkpoints:
        latest = checkpoints.latest()
    return latest and latest.step


def names(path):
    return [entry.name for entry in entries(path)]


@pytest.fixture
def path(memory):
    path = as_location(f"{memory}/run.checkpoints")
    with Checkpoints(path, RUN) as checkpoints:
        for step in (8, 9, 10):
            assert checkpoints.write(checkpoint(step))
    return path


def test_the_newest_comes_back_whole_and_two_are_kept(path):
    assert names(path) == ["owner", "step-0000000009.npz", "step-0000000010.npz"]
    with Checkpoints(path, RUN, writes=False) as checkpoints:
        latest = checkpoints.latest()
    assert (latest.step, latest.state) == (10, {"epoch": 1})
    np.testing.assert_array_equal(latest.arrays["kernel"], np.full((5, 2), 10, np.float32))
    checkpoints.remove()
    assert names(path) == []


def test_a_run_that_wrote_none_leaves_nothing_behind(memory):
    path = as_location(f"{memory}/run.checkpoints")
    assert latest_step(path) is None
    assert names(path) == []


def test_the_run_that_was_opened_last_writes_and_the_earlier_one_ends(path):
    with Checkpoints(path, RUN) as earlier:
        assert earlier.write(checkpoint(11))
        with Checkpoints(path, RUN) as later:
            assert later.latest().step == 11
            with pytest.raises(ArtifactError, match=r"in use by another run now \(.*process .*\); this one ends"):
                earlier.write(checkpoint(12))
            assert later.write(checkpoint(12))
    assert latest_step(path) == 12


def test_a_run_whose_checkpoints_were_removed_ends(path):
    with Checkpoints(path, RUN) as earlier:
        Checkpoints(path, RUN).remove()
        with pytest.raises(ArtifactError, match=r"another run now \(which has ended\); this one ends"):
            earlier.write(checkpoint(12))


def test_a_damaged_one_is_left_out_with_a_warning(path):
    (path / "step-0000000010.npz").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"step-0000000010\.npz is damaged"):
        assert latest_step(path) == 9


def test_a_store_that_refuses_to_read_is_no_damage(path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(path.fs), "get_file", refuse)
    with pytest.raises(InputError, match=r"step-0000000010\.npz: access denied"):
        latest_step(path)


def test_a_store_that_refuses_to_write_does_not_end_the_run(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no connection")

    with Checkpoints(path, RUN) as checkpoints:
        with monkeypatch.context() as broken:
            broken.setattr(type(path.fs), "put_file", refuse)
            with pytest.warns(UserWarning, match="step 11 could not be written .*no connection"):
                assert not checkpoints.write(checkpoint(11))
        assert checkpoints.write(checkpoint(12))
    assert names(path) == ["owner", "step-0000000010.npz", "step-0000000012.npz"]


def test_restart_begins_without_them(path):
    with Checkpoints(path, RUN, restart=True) as checkpoints:
        assert checkpoints.latest() is None
        assert names(path) == ["owner"]


def test_all_can_be_kept_and_read_up_to_a_damaged_one(memory):
    path = as_location(f"{memory}/run.checkpoints")
    with Checkpoints(path, RUN, kept=None) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.write(checkpoint(step))
        assert [each.step for each in checkpoints.all()] == [1, 2, 3, 4]
        (path / "step-0000000003.npz").write_bytes(b"half")
        with pytest.warns(UserWarning, match="is damaged"):
            assert [each.step for each in checkpoints.all()] == [1, 2]
