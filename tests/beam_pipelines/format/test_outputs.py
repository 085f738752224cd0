import os
import socket
import subprocess
from pathlib import Path

import pytest

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.outputs import check_output, whole_directory, whole_file


def test_whole_directory_appears_at_the_end(tmp_path):
    output = tmp_path / "deep" / "out"
    with whole_directory(output) as scratch:
        (scratch / "file").write_text("new")
        assert not output.exists()
    assert (output / "file").read_text() == "new"
    assert [p.name for p in output.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ArtifactError("x"), KeyboardInterrupt(), ZeroDivisionError()])
def test_whole_directory_leaves_nothing_on_failure(tmp_path, error):
    def write():
        with whole_directory(tmp_path / "out") as scratch:
            (scratch / "file").write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert list(tmp_path.iterdir()) == []


def existing(tmp_path) -> Path:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").write_text("old")
    return output


def test_an_existing_directory_is_refused_before_any_work(tmp_path):
    output = existing(tmp_path)
    with pytest.raises(ArtifactError, match="pass `overwrite=True`"), whole_directory(output):
        pytest.fail("the block must not run")
    with pytest.raises(ArtifactError, match="pass `overwrite=True`"):
        check_output(output)
    check_output(output, overwrite=True)
    check_output(tmp_path / "nothing yet")
    assert (output / "old").read_text() == "old"


def test_overwrite_replaces_as_a_whole(tmp_path):
    output = existing(tmp_path)
    with whole_directory(output, overwrite=True) as scratch:
        (scratch / "new").write_text("new")
    assert [p.name for p in output.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_overwrite_keeps_the_old(tmp_path):
    output = existing(tmp_path)

    def write():
        with whole_directory(output, overwrite=True) as scratch:
            (scratch / "new").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert (output / "old").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def scratch_name(pid):
    return f".out.incomplete-{socket.gethostname()}-{pid}"


def test_an_output_that_appeared_meanwhile_is_kept(tmp_path):
    output = tmp_path / "out"

    def write():
        with whole_directory(output) as scratch:
            (scratch / "mine").touch()
            existing(tmp_path)

    with pytest.raises(ArtifactError, match="was made by another command meanwhile; pass `overwrite=True`"):
        write()
    assert (output / "old").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("published", [False, True])
def test_a_run_killed_while_replacing_costs_nothing(tmp_path, published):
    finished = subprocess.Popen(["true"])
    finished.wait()
    existing(tmp_path).rename(tmp_path / scratch_name(finished.pid).replace("incomplete", "replaced"))
    if published:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "new").touch()
    with pytest.raises(ArtifactError, match="exists"), whole_directory(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert [p.name for p in (tmp_path / "out").iterdir()] == (["new"] if published else ["old"])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_output_that_holds_what_is_read_is_refused(tmp_path):
    output = existing(tmp_path)
    for source in (output, output / "logs", output / ".." / "out"):
        with (
            pytest.raises(ArtifactError, match="which is read; choose another output"),
            whole_directory(output, overwrite=True, inputs=[source]),
        ):
            pytest.fail("the block must not run")
    with whole_directory(output, overwrite=True, inputs=[tmp_path, tmp_path / "outer"]) as scratch:
        (scratch / "new").touch()


def test_an_output_that_cannot_be_a_directory_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ArtifactError, match="file is not a directory"),
        whole_directory(tmp_path / "file", overwrite=True),
    ):
        pytest.fail("the block must not run")
    with pytest.raises(ArtifactError, match="cannot be written"), whole_directory(tmp_path / "file" / "below"):
        pytest.fail("the block must not run")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_run_left_is_cleared_and_what_another_run_writes_is_not(tmp_path):
    finished = subprocess.Popen(["true"])
    finished.wait()
    (tmp_path / ".out.incomplete-elsewhere-1").mkdir()
    for pid in (os.getpid(), finished.pid, os.getppid()):
        scratch = tmp_path / scratch_name(pid)
        scratch.mkdir()
        (scratch / "half").touch()
    with whole_directory(tmp_path / "out") as scratch:
        (scratch / "file").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["file"]
    assert {p.name for p in tmp_path.iterdir()} == {"out", scratch_name(os.getppid()), ".out.incomplete-elsewhere-1"}


def test_whole_file_replaces_at_the_end_and_leaves_nothing_on_failure(tmp_path):
    path = tmp_path / "deep" / "file"

    def write(text, error=None):
        with whole_file(path) as scratch:
            scratch.write_text(text)
            if error:
                raise error

    with pytest.raises(ZeroDivisionError):
        write("half", ZeroDivisionError())
    assert list(path.parent.iterdir()) == []
    write("old")
    write("new")
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [("file", "new")]
    with pytest.raises(ArtifactError, match="is not a directory"), whole_file(path / "below"):
        pytest.fail("the block must not run")
