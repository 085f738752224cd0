import hashlib
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.images import source as images
from beam_pipelines.images.source import BadImageError, ImageSource


def test_the_source_reads_files_and_zip_shards_and_nothing_else(tmp_path, monkeypatch):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.jpg").write_bytes(b"file")
    (tmp_path / "secret").write_bytes(b"secret")
    for name, content in (("1.zip", b"first"), ("2.zip", b"second")):
        with zipfile.ZipFile(root / name, "w") as archive:
            archive.writestr("z/b.jpg", content)
    with zipfile.ZipFile(root / "3.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("huge.jpg", bytes(2000))
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    (root / "large.jpg").write_bytes(bytes(1001))
    source = ImageSource(root)
    assert source.read("sub/a.jpg") == b"file"
    assert source.read("z/b.jpg") == b"first"  # of equal names, that in the first shard
    for name, reason in [
        ("sub", "missing"),
        ("nowhere.jpg", "missing"),
        ("../secret", "outside images/"),
        (str(tmp_path / "secret"), "outside images/"),
        ("large.jpg", "too many bytes"),
        ("huge.jpg", "too many bytes"),
    ]:
        with pytest.raises(BadImageError) as error:
            source.read(name)
        assert str(error.value) == reason, name
    source.close()


def zip_with(path, content, change=lambda data: data, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("good.jpg", b"good" * 99)
        archive.writestr("bad.jpg", content)
    data = path.read_bytes()
    path.write_bytes(change(data))
    return path.parent


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


def test_a_cut_zip_shard_is_found_before_anything_is_read(tmp_path):
    images.check_archives(zip_with(tmp_path / "0.zip", b"whole"))
    zip_with(tmp_path / "1.zip", b"cut", lambda data: data[:-9])
    with pytest.raises(InputError, match=r"1\.zip is not a whole zip file"):
        images.check_archives(tmp_path)


@pytest.mark.parametrize(
    ("change", "compression", "reason"),
    [
        (flag_encrypted, zipfile.ZIP_DEFLATED, "encrypted"),
        (overwrite_content, zipfile.ZIP_STORED, "unreadable"),
        (overwrite_content, zipfile.ZIP_DEFLATED, "unreadable"),
        (overwrite_content, zipfile.ZIP_BZIP2, "unreadable"),
        (overwrite_content, zipfile.ZIP_LZMA, "unreadable"),
        (claim_size(images.MAX_BYTES + 1), zipfile.ZIP_DEFLATED, "too many bytes"),
        (claim_size(images.MAX_BYTES + 1), zipfile.ZIP_STORED, "too many bytes"),
        (claim_size(100), zipfile.ZIP_DEFLATED, "unreadable"),
        (claim_size(100), zipfile.ZIP_STORED, "unreadable"),
    ],
)
def test_a_bad_member_of_a_zip_shard_has_a_reason_and_leaves_the_others(tmp_path, change, compression, reason):
    content = np.random.default_rng(0).bytes(2000)
    source = ImageSource(zip_with(tmp_path / "0.zip", content, change, compression))
    assert source.read("good.jpg") == b"good" * 99
    with pytest.raises(BadImageError) as error:
        source.read("bad.jpg")
    assert str(error.value) == reason
    source.close()


def test_a_member_that_is_larger_than_it_claims_is_not_unpacked(tmp_path, monkeypatch):
    """64 MB of zeros that claim to be a picture of 1000 bytes."""
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 20)
    source = ImageSource(zip_with(tmp_path / "0.zip", bytes(64 << 20), claim_size(1000)))
    tracemalloc.start()
    with pytest.raises(BadImageError, match="unreadable"):
        source.read("bad.jpg")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_picture_is_known_by_its_content():
    assert images.content_hash(b"x") == hashlib.sha256(b"x").hexdigest()
