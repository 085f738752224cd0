import importlib.util
from pathlib import Path

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import as_location
from beam_pipelines.images import uris
from beam_pipelines.images.refusals import BadImageError

IMAGES = Path("logs/images")


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
        ("nosuch://bucket/0.png", "Unsupported filesystem: 'nosuch'; copy"),
        ("gs://bucket/0.png", "a package for gs:// is missing: pip install 'courier-ranking[gcp]'; copy"),
    ],
)
def test_a_uri_that_cannot_be_read_is_named_with_what_to_do(uri, problem):
    if uri.startswith("gs:") and importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is there")
    names = ["0.png", uri, uri.replace("0.png", "1.png") + "?", "file:///0.png"]
    with pytest.raises(InputError) as error:
        uris.check_uris(names, IMAGES)
    assert str(error.value).startswith(f"items.image: {uri!r} and 1 more cannot be read here: {problem}")
    assert str(error.value).endswith(" the pictures into logs/images and name their paths there")
    with pytest.raises(InputError, match="cannot be read here"):
        uris.read_uri(uri, IMAGES)


def test_uris_are_read(monkeypatch):
    shelf = as_location("memory://uris")
    (shelf / "0.png").write_bytes(b"0123456789a")
    (shelf / "empty.png").write_bytes(b"")
    uris.check_uris(["0.png", "memory://uris/0.png", "memory://uris/nowhere.png", "file:///0.png"], IMAGES)
    assert uris.read_uri(" MEMORY://uris/0.png ", IMAGES) == b"0123456789a"
    assert uris.read_uri("memory://uris/empty.png", IMAGES) == b""
    with pytest.raises(BadImageError, match="missing"):
        uris.read_uri("memory://uris/nowhere.png", IMAGES)
    monkeypatch.setattr(uris, "MAX_BYTES", 10)
    with pytest.raises(BadImageError, match="too many bytes"):
        uris.read_uri("memory://uris/0.png", IMAGES)


def test_of_a_store_the_bucket_must_be_there_and_pictures_may_be_missing(s3_server):
    (as_location(s3_server) / "uris" / "0.png").write_bytes(b"here")
    (as_location(s3_server) / "uris" / "empty.png").write_bytes(b"")
    names = [f"{s3_server}/uris/{name}.png" for name in ("nowhere", "0", "empty")]
    uris.check_uris(names[:1], IMAGES)
    uris.check_uris(names, IMAGES)
    assert uris.read_uri(names[1].replace("s3://", "s3n:/"), IMAGES) == b"here"
    assert uris.read_uri(names[2], IMAGES) == b""
    with pytest.raises(BadImageError, match="missing"):
        uris.read_uri(names[0], IMAGES)
    with pytest.raises(InputError, match=r"^items\.image: 's3://none/0\.png' cannot be read here: not found .*bucket"):
        uris.check_uris(["s3://none/0.png"], IMAGES)
