import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.server.content_encoding import ContentError, ContentTooLarge, content_encoding, decode, encode

TEXT = b"a page of items " * 100


def raw_deflate(data):
    packing = zlib.compressobj(wbits=-15)
    return packing.compress(data) + packing.flush()


@pytest.mark.parametrize(
    ("field", "pack"),
    [
        ("gzip", gzip.compress),
        (" X-GZip", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),  # as `cat a.gz b.gz`
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_a_body_is_unpacked(field, pack):
    for data in (TEXT, b""):
        assert decode(pack(data), content_encoding(field), len(TEXT)) == data


@pytest.mark.parametrize("field", ["br", "zstd", "compress", "gzip, gzip", "gzip, identity", "*"])
def test_another_encoding_is_named(field):
    with pytest.raises(ContentError) as caught:
        content_encoding(field)
    assert str(caught.value) == f"Content-Encoding: {field} is not read here; use gzip, deflate, identity"


@pytest.mark.parametrize(
    ("encoding", "body", "text"),
    [
        ("gzip", TEXT, "not valid gzip: Error -3"),
        ("gzip", gzip.compress(TEXT)[:-1], "it is cut off"),
        ("gzip", gzip.compress(TEXT)[:5], "it is cut off"),
        ("gzip", gzip.compress(TEXT)[:-8] + bytes(8), "incorrect data check"),
        ("gzip", gzip.compress(TEXT) + b"more", "not valid gzip: Error -3"),
        ("gzip", gzip.compress(b"") * 1000, "something follows its end"),
        ("deflate", zlib.compress(TEXT)[:-1], "it is cut off"),
        ("deflate", zlib.compress(TEXT) * 2, "something follows its end"),
        ("deflate", TEXT, "not valid deflate: Error -3"),
    ],
)
def test_a_damaged_body_is_refused(encoding, body, text):
    with pytest.raises(ContentError) as caught:
        decode(body, encoding, 10_000)
    assert text in str(caught.value)
    assert not isinstance(caught.value, ContentTooLarge)


@pytest.mark.parametrize("members", [1, 4])
def test_unpacking_stops_at_the_limit(members):
    bomb = gzip.compress(bytes(20_000_000 // members), mtime=0) * members
    assert len(bomb) < 25_000
    tracemalloc.start()
    try:
        for limit in (10_000, 1_000_000, 6_000_000):
            with pytest.raises(ContentTooLarge):
                decode(bomb, "gzip", limit)
        assert tracemalloc.get_traced_memory()[1] < 15_000_000  # zlib joins what it has unpacked
    finally:
        tracemalloc.stop()
    assert len(decode(bomb, "gzip", 20_000_000)) == 20_000_000
    with pytest.raises(ContentTooLarge):
        decode(bomb, "gzip", 19_999_999)


@given(body=st.binary(max_size=200), encoding=st.sampled_from(["gzip", "deflate"]), start=st.binary(max_size=12))
def test_no_body_does_anything_else_than_to_be_unpacked_or_refused(body, encoding, start):
    for data in (body, gzip.compress(body, mtime=0)[:-3] + start, start + zlib.compress(body)):
        with contextlib.suppress(ContentError):
            assert len(decode(data, encoding, 100)) <= 100


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        ("gzip", True),
        ("br;q=1, GZIP;q=0.5", True),
        ("x-gzip", True),
        ("gzip;q=1.0", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("br, gzip; q=0.000", False),
    ],
)
def test_large_answers_are_packed_where_that_is_accepted(accepted, is_packed):
    body, fields = encode(TEXT * 20, accepted)
    assert fields["Vary"] == "Accept-Encoding"
    assert ("Content-Encoding" in fields) == is_packed
    assert (gzip.decompress(body) if is_packed else body) == TEXT * 20
    assert encode(TEXT, accepted) == (TEXT, {})  # a small one
