import io
import uuid

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import as_location
from beam_pipelines.format.remote_file import RemoteFile, list_directory, open_file, read_whole
from tests.beam_pipelines.remote import count_requests

CONTENT = bytes(range(256)) * 10


@pytest.fixture
def directory():
    directory = as_location(f"memory://{uuid.uuid4().hex}/shelf")
    (directory / "0").write_bytes(CONTENT)
    return directory


def test_a_file_is_read_at_any_place(directory):
    file = RemoteFile(directory / "0")
    assert file.read(3) == CONTENT[:3]
    assert (file.seek(-5, io.SEEK_END), file.tell()) == (2555, 2555)
    assert file.read() == CONTENT[-5:]
    assert file.read() == b""
    assert file.read_range(2550, 100) == CONTENT[2550:]
    assert (file.read_range(9999, 1), file.read_range(5, 0)) == (b"", b"")
    with open_file(directory / "0", 7) as buffered:
        buffered.seek(100)
        assert [buffered.read(5), buffered.read()] == [CONTENT[100:105], CONTENT[105:]]


def test_what_is_expected_is_got_by_one_request(directory, monkeypatch):
    file = RemoteFile(directory / "0")
    requests = count_requests(monkeypatch)
    with file.expecting(1000, 500):
        assert b"".join(file.read_range(start, 50) for start in range(1000, 1500, 50)) == CONTENT[1000:1500]
        assert requests == {"cat_file": 1}
        assert file.read_range(1499, 2) == CONTENT[1499:1501]  # is not all there
    file.read_range(1000, 500)
    assert requests == {"cat_file": 3}


def test_a_file_that_is_not_there_is_named(directory):
    with pytest.raises(InputError, match="shelf/1: not found"):
        RemoteFile(directory / "1")
    file = RemoteFile(directory / "0")
    (directory / "0").unlink()
    with pytest.raises(InputError, match="shelf/0: not found"):
        file.read(1)


def test_a_directory_is_listed_in_order_of_its_folders(directory):
    for path in ("b/1", "b-c/2", "b/.hidden/3"):
        (directory / path).write_bytes(b"12")
    assert [(entry.path, entry.is_directory, entry.bytes) for entry in list_directory(directory)] == [
        ("0", False, len(CONTENT)),
        ("b", True, 0),
        ("b-c", True, 0),
    ]
    assert [entry.path for entry in list_directory(directory, below=True)] == ["0", "b/.hidden/3", "b/1", "b-c/2"]
    before = list_directory(directory)[0].version
    (directory / "0").write_bytes(CONTENT)
    assert list_directory(directory)[0].version != before
    assert list_directory(directory / "none", below=True) == []
    with pytest.raises(InputError, match="shelf/none: not found"):
        list_directory(directory / "none")


def test_a_store_is_listed_and_read(s3_server):
    directory = as_location(s3_server) / "remote_file"
    (directory / "a" / "full").write_bytes(b"1234")
    (directory / "a" / "empty").write_bytes(b"")
    directory.fs.pipe_file(f"{directory.path}/a/", b"")  # a folder, as a console makes one
    assert [(entry.path, entry.is_directory) for entry in list_directory(directory)] == [("a", True)]
    for found in (list_directory(directory / "a"), list_directory(directory / "a", below=True)):
        assert [(entry.path, entry.bytes) for entry in found] == [("empty", 0), ("full", 4)]
    assert list_directory(directory / "none", below=True) == []
    assert read_whole(directory / "a" / "full", 2) == b"123"  # one more than allowed shows that there is more
    assert read_whole(directory / "a" / "empty", 2) == b""
    with open_file(directory / "a" / "empty") as file:
        assert file.read() == b""
    with pytest.raises(FileNotFoundError):
        read_whole(directory / "a" / "none", 2)
