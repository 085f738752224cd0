import io
import re
from pathlib import Path

import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.localfilesystem import LocalFileSystem

from beam_pipelines.format.errors import InputError
from beam_pipelines.images import uris
from beam_pipelines.images.refusals import BadImageError

IMAGES = Path("logs/images")


class Shelf(LocalFileSystem):
    """A file system that Beam knows, with three files."""

    @classmethod
    def scheme(cls):
        return "shelf"

    def open(self, path, *_, **__):
        if path == "shelf://lost/0.png":
            raise BeamIOError("no such object", {path: "404"})
        if path == "shelf://locked/0.png":
            raise PermissionError("no credentials\nand more")
        return io.BytesIO(path.encode())


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("0.png", ""),
        ("a:b/0.png", ""),
        ("C:\\shop\\0.png", ""),
        ("C:/shop/0.png", ""),
        ("x/https://0.png", ""),
        ("//cdn.example.com/0.png", ""),
        (" HTTPS://cdn/0.png", "https"),
        ("s3a://b/0.png", "s3a"),
        ("file:/tmp/0.png", "file"),
        ("data:image/png;base64,iVBO", "data"),
    ],
)
def test_scheme_of(name, scheme):
    assert uris.scheme_of(name) == scheme


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("https://cdn.example.com/0.png", "nothing is fetched from the web; copy"),
        ("Http://cdn.example.com/0.png", "nothing is fetched from the web; copy"),
        ("data:image/png;base64,iVBO", "the table must name pictures, not hold them; copy"),
        ("nosuch://bucket/0.png", "Beam has no file system nosuch://; copy"),
        ("s3://bucket/0.png", "the package boto3 is missing; install 'apache-beam[aws]', or copy"),
        ("s3a://bucket/0.png", "the package boto3 is missing; install 'apache-beam[aws]', or copy"),
        ("gs://bucket/0.png", "the package google.cloud.storage is missing; install 'apache-beam[gcp]', or copy"),
        ("hdfs://host/0.png", "the package hdfs is missing; install 'apache-beam[hadoop]', or copy"),
        ("azfs://account/0.png", "the package azure.storage.blob is missing; install 'apache-beam[azure]', or copy"),
    ],
)
def test_a_uri_that_cannot_be_read_is_named_with_what_to_do(uri, problem):
    if package := re.match(r"the package (\S+) ", problem):
        try:
            __import__(package[1])
            pytest.skip(f"{package[1]} is there")
        except ImportError:
            pass
    names = ["0.png", uri, uri.replace("0.png", "1.png") + "?", "file:///0.png"]
    with pytest.raises(InputError) as error:
        uris.check_uris(names, IMAGES)
    assert str(error.value).startswith(f"items.image: {uri!r} and 1 more cannot be read here: {problem}")
    assert str(error.value).endswith(" the pictures into logs/images and name their paths there")
    with pytest.raises(InputError, match="cannot be read here"):
        uris.read_uri(uri, IMAGES)


def test_uris_are_read_by_beams_file_systems(monkeypatch):
    uris.check_uris(["0.png", "shelf://a/0.png", "file:///0.png"], IMAGES)
    assert uris.read_uri(" SHELF://a/0.png ", IMAGES) == b"shelf://a/0.png"
    with pytest.raises(BadImageError) as error:
        uris.read_uri("shelf://locked/0.png", IMAGES)
    assert (error.value.reason, error.value.detail) == ("unreadable", "PermissionError: no credentials")
    with pytest.raises(BadImageError, match="unreadable"):
        uris.read_uri("shelf://lost/0.png", IMAGES)
    monkeypatch.setattr(uris, "MAX_BYTES", 10)
    with pytest.raises(BadImageError, match="too many bytes"):
        uris.read_uri("shelf://a/0.png", IMAGES)
