"""Outputs where there is no rename, by the file system that fsspec keeps in memory."""

import datetime
import uuid

import pytest

from beam_pipelines.format.contents import Contents, StoredFile
from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.local_copy import fetch, local_copy
from beam_pipelines.format.location import as_location
from beam_pipelines.format.outputs import (
    abandon,
    begin,
    check_output,
    commit,
    sweep,
    upload,
    whole_directory,
    whole_file,
)

NOW = datetime.timedelta(0)


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setenv("COURIER_CACHE", str(tmp_path / "cache"))
    return as_location(f"memory://{uuid.uuid4().hex}/run")


def write(output, text="new", **options):
    with whole_directory(output, **options) as scratch:
        (scratch / "deep").mkdir()
        (scratch / "deep" / "file").write_text(text)


def attempts(output) -> list[str]:
    return [path.name for path in output.iterdir() if path.name != "contents.json"]


def test_a_directory_appears_at_the_end(output):
    with whole_directory(output) as scratch:
        (scratch / "file").write_text("new")
        assert Contents.read(output) is None
    contents = Contents.read(output)
    assert contents.files == [StoredFile.of(local_copy(output), "file")]
    assert (output / contents.attempt / "file").read_text() == "new"


def test_what_fails_leaves_nothing(output):
    with pytest.raises(ZeroDivisionError), whole_directory(output) as scratch:
        (scratch / "file").write_text(str(1 // 0))
    assert not output.exists() or attempts(output) == []


def test_an_existing_output_is_refused_before_any_work_and_replaced_when_asked(output):
    write(output, "old")
    old = local_copy(output)
    for refused in (lambda: check_output(output), lambda: begin(output), lambda: write(output)):
        with pytest.raises(ArtifactError, match="pass `overwrite=True`"):
            refused()
    write(output, overwrite=True)
    assert (local_copy(output) / "deep" / "file").read_text() == "new"
    assert (old / "deep" / "file").read_text() == "old"  # whoever reads it goes on


def test_of_two_attempts_one_is_committed_whole(output, tmp_path):
    first, second = begin(output), begin(output)
    for attempt, text in ((first, "first"), (second, "second")):
        scratch = tmp_path / text
        scratch.mkdir()
        (scratch / "file").write_text(text)
        files = upload(scratch, attempt.directory)
        if attempt is first:
            commit(first, files)
            commit(first, files)  # as a step that is retried does
        else:
            with pytest.raises(ArtifactError, match="was made by another command meanwhile"):
                commit(second, files)
    abandon(second)
    abandon(first)  # is committed: stays
    assert attempts(output) == [first.directory.name]
    assert (local_copy(output) / "file").read_text() == "first"


def test_what_was_not_committed_is_swept_by_age(output):
    write(output)
    left = begin(output, overwrite=True)
    (left.directory / "half").write_text("x")
    assert sweep(output) == 0
    assert sweep(output, NOW) == 1
    assert attempts(output) == [Contents.read(output).attempt]
    assert (local_copy(output) / "deep" / "file").read_text() == "new"


def test_only_what_was_abandoned_is_removed_whatever_its_name(output):
    other, named = begin(output.parent / "run1"), begin(output.parent / "run[1]")
    for attempt in (other, named):
        (attempt.directory / "half").write_text("x")
    like_it = output.parent / "run1" / named.directory.name
    (like_it / "half").write_text("x")
    abandon(named)
    assert sorted(attempts(output.parent / "run1")) == sorted([other.directory.name, like_it.name])
    assert not (named.directory / "half").exists()


def test_a_directory_of_something_else_is_no_output(output):
    (output / "holiday.jpg").write_text("x")
    with pytest.raises(ArtifactError, match=r"holds holiday\.jpg, which is no part of an output"):
        check_output(output, overwrite=True)


def test_an_output_that_holds_an_input_is_refused(output):
    with pytest.raises(ArtifactError, match="choose another output"):
        begin(output, inputs=[output / "logs"])


def test_a_file_appears_at_the_end(output):
    with pytest.raises(ZeroDivisionError), whole_file(output / "report.json") as scratch:
        scratch.write_text(str(1 // 0))
    assert not (output / "report.json").exists()
    with whole_file(output / "report.json") as scratch:
        scratch.write_text("{}")
    assert (output / "report.json").read_text() == "{}"


def test_a_copy_has_what_is_needed_and_fetches_the_rest_later(output, tmp_path):
    with whole_directory(output) as scratch:
        for name in ("a", "b", "c"):
            (scratch / name).write_text("same" if name != "c" else "other")
    copy = local_copy(output, only=["a"])
    assert [path.name for path in copy.glob("[a-z]*")] == ["a"]
    fetch(copy, ["b", "none"])
    assert (copy / "a").samefile(copy / "b")  # equal content is stored once
    assert not (copy / "none").exists()
    assert local_copy(output) == copy
    assert (copy / "c").read_text() == "other"
    fetch(tmp_path, ["anything"])  # is no copy
    assert local_copy(tmp_path) == tmp_path


def test_a_file_that_was_changed_is_refused(output):
    write(output)
    contents = Contents.read(output)
    (output / contents.attempt / "deep" / "file").write_text("wrong")
    with pytest.raises(ArtifactError, match=r"deep/file is not the file that contents\.json lists"):
        local_copy(output)


def test_what_another_program_copied_there_is_taken_as_it_is(output):
    with pytest.raises(ArtifactError, match="nothing lies there"):
        local_copy(output)
    (output / "pages" / "one").write_text("1")
    assert (local_copy(output) / "pages" / "one").read_text() == "1"
    (output / "pages" / "one").write_text("22")
    assert (local_copy(output) / "pages" / "one").read_text() == "22"
