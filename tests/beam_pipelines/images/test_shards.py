import io
import os
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.images import shards
from beam_pipelines.images.refusals import BadImageError
from beam_pipelines.images.shards import check_shard, is_shard, open_shard


def zip_with(path, content, change=lambda data: data, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("good.jpg", b"good" * 99)
        archive.writestr("bad.jpg", content)
    data = path.read_bytes()
    path.write_bytes(change(data))
    return path


def flag_encrypted(data):
    """Sets the flag of the last member in both places where a zip file has it."""
    data = bytearray(data)
    data[data.rindex(b"PK\3\4") + 6] |= 1
    data[data.rindex(b"PK\1\2") + 8] |= 1
    return data


def overwrite_content(data):
    data = bytearray(data)
    start = data.rindex(b"PK\3\4") + 30 + len("bad.jpg")
    data[start : start + 20] = b"\xff" * 20
    return data


def claim_size(size):
    def change(data):
        data = bytearray(data)
        for position in (data.rindex(b"PK\3\4") + 22, data.rindex(b"PK\1\2") + 24):
            data[position : position + 4] = struct.pack("<I", size)
        return data

    return change


@pytest.mark.parametrize(
    ("change", "compression", "reason"),
    [
        (flag_encrypted, zipfile.ZIP_DEFLATED, "encrypted"),
        (overwrite_content, zipfile.ZIP_STORED, "unreadable"),
        (overwrite_content, zipfile.ZIP_DEFLATED, "unreadable"),
        (overwrite_content, zipfile.ZIP_BZIP2, "unreadable"),
        (overwrite_content, zipfile.ZIP_LZMA, "unreadable"),
        (claim_size(shards.MAX_BYTES + 1), zipfile.ZIP_DEFLATED, "too many bytes"),
        (claim_size(shards.MAX_BYTES + 1), zipfile.ZIP_STORED, "too many bytes"),
        (claim_size(100), zipfile.ZIP_DEFLATED, "unreadable"),
        (claim_size(100), zipfile.ZIP_STORED, "unreadable"),
    ],
)
def test_a_bad_member_of_a_zip_shard_has_a_reason_and_leaves_the_others(tmp_path, change, compression, reason):
    content = np.random.default_rng(0).bytes(2000)
    shard = open_shard(zip_with(tmp_path / "0.zip", content, change, compression))
    assert shard.read(shard.members["good.jpg"]) == b"good" * 99
    with pytest.raises(BadImageError) as error:
        shard.read(shard.members["bad.jpg"])
    assert error.value.reason == reason
    assert (error.value.detail != "") == (reason == "unreadable")
    shard.close()


def test_a_member_that_is_larger_than_it_claims_is_not_unpacked(tmp_path, monkeypatch):
    """64 MB of zeros that claim to be a picture of 1000 bytes."""
    monkeypatch.setattr(shards, "MAX_BYTES", 1 << 20)
    shard = open_shard(zip_with(tmp_path / "0.zip", bytes(64 << 20), claim_size(1000)))
    tracemalloc.start()
    with pytest.raises(BadImageError, match="unreadable"):
        shard.read(shard.members["bad.jpg"])
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def contents(path):
    shard = open_shard(path)
    found = {name: shard.read(member) for name, member in shard.members.items()}
    shard.close()
    return found


def tar_with(path, members, format=tarfile.PAX_FORMAT):
    """A tar file of contents by name; a tuple holds the type of a link and where it leads."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_file_is_read_at_random(tmp_path, format):
    long = f"{'folder/' * 30}ä.jpg"
    members = {
        "./a/0.jpg": b"0" * 700,
        long: b"",
        "a/hard.jpg": (tarfile.LNKTYPE, "./a/0.jpg"),
        "a/soft.jpg": (tarfile.SYMTYPE, "../" + long),
        "a/lost.jpg": (tarfile.SYMTYPE, "nowhere.jpg"),
        "a/last.jpg": b"last",
    }
    path = tar_with(tmp_path / "0.tar", members, format)
    check_shard(path)
    expected = {"a/0.jpg": b"0" * 700, long: b"", "a/hard.jpg": b"0" * 700, "a/soft.jpg": b"", "a/last.jpg": b"last"}
    assert contents(path) == expected


def test_a_large_member_of_a_tar_file_is_refused(tmp_path, monkeypatch):
    shard = open_shard(tar_with(tmp_path / "0.tar", {"0.jpg": b"0" * 11}))
    monkeypatch.setattr(shards, "MAX_BYTES", 10)
    with pytest.raises(BadImageError, match="too many bytes"):
        shard.read(shard.members["0.jpg"])


def test_names_without_the_flag_of_their_encoding_are_utf8_if_they_can_be(tmp_path):
    with zipfile.ZipFile(tmp_path / "0.zip", "w") as archive:
        archive.writestr("\u00fc.jpg", b"marked")
        archive.writestr("XX0.jpg", b"unmarked")
        archive.writestr("X1.jpg", b"not UTF-8")
    data = (tmp_path / "0.zip").read_bytes().replace(b"XX0", "ä0".encode()).replace(b"X1.", b"\x811.")
    (tmp_path / "0.zip").write_bytes(data)
    found = contents(tmp_path / "0.zip")
    assert (found["ü.jpg"], found["ä0.jpg"], found["ü1.jpg"]) == (b"marked", b"unmarked", b"not UTF-8")


@pytest.mark.parametrize("name", ["0.zip", "IMAGES.ZIP", "a.tar", "a.Tar"])
def test_shards_are_known_by_their_endings(name):
    assert is_shard(name)


@pytest.mark.parametrize("name", ["._0.zip", "a.tar.gz", "a.tgz", "a.7z", "zip", "a.zip.part"])
def test_other_files_are_no_shards(name):
    assert not is_shard(name)


def cut(size):
    return lambda data: data[:size]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("0.zip", cut(-9), "is not a whole zip file; copy it again, or remove it"),
        ("0.zip", cut(0), "is not a zip file, but empty"),
        ("0.zip", lambda _: b"<html>404</html>", "is not a zip file, but HTML; pack its pictures as zip"),
        ("0.tar", cut(-512 * 20), "is not a whole tar file"),
        ("0.tar", cut(700), "is not a whole tar file"),
        ("0.tar", cut(0), "is not a tar file, but empty"),
        (
            "0.tar",
            lambda _: b"\x1f\x8b\x08" + bytes(600),
            "is not a tar file, but a gzip file; pack its pictures as tar",
        ),
    ],
)
def test_a_damaged_shard_is_found_before_anything_is_read(tmp_path, name, change, message):
    path = tmp_path / name
    if name.endswith(".zip"):
        zip_with(path, b"whole")
    else:
        tar_with(path, {f"{n}.jpg": b"x" * 600 for n in range(20)})
    check_shard(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=rf"{path} {message}"):
        check_shard(path)


def test_a_shard_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "0.zip").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"0\.zip cannot be opened \(No such file"):
        check_shard(tmp_path / "0.zip")


def test_a_damaged_header_in_the_middle_of_a_tar_file_is_an_error(tmp_path):
    """Readers of tar files take it for the end, and lose what follows."""
    path = tar_with(tmp_path / "0.tar", {f"{n}.jpg": b"x" * 600 for n in range(3)}, tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[1536:1540] = b"\xff" * 4
    path.write_bytes(data)
    check_shard(path)
    with pytest.raises(InputError, match=r"0\.tar is not a whole tar file \(no header at byte 1536\)"):
        open_shard(path)


def test_a_tar_file_may_lack_the_blocks_at_its_end(tmp_path):
    path = tar_with(tmp_path / "0.tar", {"0.jpg": b"x" * 512})
    os.truncate(path, 1024)
    assert contents(path) == {"0.jpg": b"x" * 512}
