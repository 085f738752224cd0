import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.server.http_request import HttpError, RequestReader

MAX_BODY = 1000


class Pieces(io.RawIOBase):
    """Bytes as they may come over a network: so many at a time."""

    def __init__(self, data, sizes):
        super().__init__()
        self._data = data
        self._sizes = iter(sizes)

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(next(self._sizes, len(self._data)), len(buffer), len(self._data))
        buffer[:size], self._data = self._data[:size], self._data[size:]
        return size


def outcomes(data, sizes=()):
    """The requests of a connection, and what ended them: an error, or how many were continued."""
    stream = io.BufferedReader(Pieces(data, sizes))
    continued = []
    reader = RequestReader(stream, MAX_BODY, lambda: continued.append(1))
    found = []
    while stream.peek(1):
        try:
            found.append(reader.read())
        except HttpError as error:
            return [*found, (error.status, error.message, dict(reader.fields))]
    return [*found, len(continued)]


def only(data):
    request, _ = outcomes(data)
    return request


def refusal(data):
    """Status and text of what a request is refused with."""
    (found,) = outcomes(data)
    return found[:2]


def post(*fields, body=b"", target=b"/p", version=b"HTTP/1.1"):
    return b"\r\n".join([b"POST " + target + b" " + version, b"Host: x", *fields, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b'3;name="a;b"\r\nabc\r\n0A \r\n0123456789\r\n000;x\r\nDigest: 1\r\nX: y\r\n\r\n'
GZIPPED = gzip.compress(b"payload", mtime=0)
GOOD = [
    post(b"Content-Length: 3", body=b"abc"),
    post(CHUNKED, body=CHUNKS),
    post(
        CHUNKED,
        b"Expect: 100-continue",
        b"Content-Encoding: gzip",
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(GZIPPED), GZIPPED),
    ),
    post(b"content-length:7", b"ACCEPT: a", b"accept: \tb ", b"x-empty:", body=b"1234567"),
    post(b"Connection: close", target=b"http://[::1]:8501/v1/x?y=z"),
    b"\r\nGET * HTTP/1.0\n\n",
]


def test_a_request_is_read():
    request = only(GOOD[3])
    assert (request.method, request.path, request.body) == ("POST", "/p", b"1234567")
    assert request.fields == {"host": "x", "content-length": "7", "accept": "a, b", "x-empty": ""}
    assert (request.minor_version, request.keeps_alive) == (1, True)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a/b?c=d", "/a/b"),
        (b"*", "*"),
        (b"http://host/v1/a:predict?x", "/v1/a:predict"),
        (b"HTTPS://user@[::1]:8501/", "/"),
        (b"http://host", "/"),
        (b"http://host?x", "/"),
        (b"/%41%2f", "/%41%2f"),
        ("/größe".encode(), "/größe"),
    ],
)
def test_the_path_of_a_target(target, path):
    assert only(post(target=target)).path == path


@pytest.mark.parametrize(
    ("version", "field", "keeps_alive"),
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"Connection: Close", False),
        (b"HTTP/1.1", b"Connection: te, close", False),
        (b"HTTP/1.7", b"Connection: keep-alive", True),
        (b"HTTP/1.0", b"", False),
        (b"HTTP/1.0", b"Connection: Keep-Alive", True),
    ],
)
def test_what_becomes_of_a_connection(version, field, keeps_alive):
    data = b"GET / " + version + b"\r\nHost: x\r\n" + (field + b"\r\n" if field else b"") + b"\r\n"
    assert only(data).keeps_alive == keeps_alive


def test_chunks_are_joined():
    request = only(post(CHUNKED, body=CHUNKS))
    assert request.body == b"abc0123456789"
    assert request.fields == {"host": "x", "transfer-encoding": "chunked"}  # trailers stay apart: they come too late
    assert only(post(b"TRANSFER-encoding:  Chunked ,", body=b"0\r\n\r\n")).body == b""


def test_a_client_that_asks_first_is_told_to_go_on():
    for field, body in ((b"Content-Length: 2", b"{}"), (CHUNKED, b"2\r\n{}\r\n0\r\n\r\n")):
        request, continued = outcomes(post(field, b"Expect: 100-Continue", body=body))
        assert (request.body, continued) == (b"{}", 1)
    for field, version in ((b"Content-Length: 0", b"HTTP/1.1"), (b"Content-Length: 2", b"HTTP/1.0")):
        assert outcomes(post(field, b"Expect: 100-continue", body=b"{}"[: int(field[-1:])], version=version))[1] == 0


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 1001",),
        (b"Content-Length: " + b"9" * 5000,),
        (b"Content-Length: 2", b"Content-Encoding: br"),
        (b"Content-Length: 2", b"Expect: 200-ok"),
        (CHUNKED, b"Content-Encoding: gzip, gzip"),
    ],
)
def test_nobody_is_told_to_send_what_is_refused(fields):
    continued = []
    data = post(*fields, *([] if b"Expect: 200-ok" in fields else [b"Expect: 100-continue"]))
    with pytest.raises(HttpError) as caught:
        RequestReader(io.BytesIO(data), MAX_BODY, lambda: continued.append(1)).read()
    assert caught.value.status in (413, 415, 417)
    assert continued == []


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"nonsense\r\n\r\n", 400, "Malformed request line: 'nonsense'"),
        (b"GET /\r\n\r\n", 400, "Malformed request line"),
        (b"GET  / HTTP/1.1\r\n\r\n", 400, "Malformed request line"),
        (b"GET / HTTP/1.1 \r\n\r\n", 400, "Malformed request line"),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400, "Malformed request line"),
        (b"\x16\x03\x01\x02\x00\x01\x00\n", 400, "Malformed request line"),
        (b"\r\n" * 9, 400, "Malformed request line: ''"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2.0 is not spoken here"),
        (b"GET v1 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "Malformed target: 'v1'"),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "Malformed target: 'x:80'"),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "Malformed target: '/\\xff'"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 414, "longer than 16384 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "needs the header field Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "Malformed header field Host: 'a, a'"),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "Malformed header field Host"),
        (b"GET / HTTP/1.0\r\nHost: ::1:8501\r\n\r\n", 400, "Malformed header field Host"),
        (post(b"A : b"), 400, "Malformed header field: 'A : b'"),
        (post(b"A"), 400, "Malformed header field: 'A'"),
        (post(b": b"), 400, "Malformed header field: ': b'"),
        (post(b"A: b\rC: d"), 400, "Malformed header field: 'A: b\\rC: d'"),
        (post(b"A: b\0"), 400, "Malformed header field"),
        (post(b"A: b", b" c"), 400, "goes on in a second line"),
        (post(*[b"A: b"] * 200), 431, "header fields are too many"),
        (post(b"A: " + b"b" * 70_000), 431, "header fields are too many or too large: up to 100 and 65536 bytes"),
        (post(*[b"A: " + b"b" * 7000] * 10), 431, "too large"),
        (post()[:-1], 400, "The request is cut off"),
        (post(b"Content-Length: x"), 400, "Malformed header field Content-Length: x"),
        (post(b"Content-Length: -1"), 400, "Malformed header field Content-Length: -1"),
        (post(b"Content-Length: +1"), 400, "Content-Length"),
        (post(b"Content-Length: 1_0"), 400, "Content-Length"),
        (post("Content-Length: ٣".encode()), 400, "Content-Length"),
        (post(b"Content-Length:"), 400, "Content-Length"),
        (post(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"), 400, "Content-Length: 2, 2"),
        (post(b"Content-Length: 9", body=b"{}"), 400, "cut off: 2 bytes in place of 9"),
        (post(b"Content-Length: 1001", body=b"{}"), 413, "larger than 1000 bytes"),
        (post(CHUNKED, b"Content-Length: 2", body=CHUNKS), 400, "exclude each other"),
        (post(CHUNKED, body=CHUNKS, version=b"HTTP/1.0"), 400, "HTTP/1.0 has no Transfer-Encoding"),
        (post(b"Transfer-Encoding: gzip, chunked", body=CHUNKS), 501, "Transfer-Encoding: gzip is not read here"),
        (post(b"Transfer-Encoding: identity"), 501, "Transfer-Encoding: identity"),
        (post(b"Transfer-Encoding: xchunked", body=CHUNKS), 501, "Transfer-Encoding: xchunked"),
        (post(CHUNKED, CHUNKED, body=CHUNKS), 400, "must say chunked once"),
        (post(b"Transfer-Encoding:"), 400, "must say chunked once"),
        (post(CHUNKED, body=b"x\r\n"), 400, "Malformed size of a chunk: 'x'"),
        (post(CHUNKED, body=b"-1\r\n"), 400, "Malformed size of a chunk"),
        (post(CHUNKED, body=b"0x1\r\na\r\n0\r\n\r\n"), 400, "Malformed size of a chunk"),
        (post(CHUNKED, body=b"1_0\r\n"), 400, "Malformed size of a chunk"),
        (post(CHUNKED, body=b"\r\n"), 400, "Malformed size of a chunk: ''"),
        (post(CHUNKED, body=b"1;a\rb\r\na\r\n0\r\n\r\n"), 400, "Malformed size of a chunk"),
        (post(CHUNKED, body=b"3\r\nab\r\n0\r\n\r\n"), 400, "not as long as it says"),
        (post(CHUNKED, body=b"1\r\nab\r\n0\r\n\r\n"), 400, "not as long as it says"),
        (post(CHUNKED, body=b"1\na\r\n0\r\n\r\n"), 400, "Malformed end of a line"),
        (post(CHUNKED, body=b"5\r\nab"), 400, "cut off"),
        (post(CHUNKED, body=b"1\r\na\r\n"), 400, "cut off"),
        (post(CHUNKED, body=b"1\r\na\r\n0\r\n"), 400, "cut off"),
        (post(CHUNKED, body=b"fffffffffffffff\r\n"), 413, "larger than 1000 bytes"),
        (post(CHUNKED, body=(b"64\r\n" + b"x" * 100 + b"\r\n") * 11), 413, "larger than 1000 bytes"),
        (post(CHUNKED, body=b"1;" + b"x" * 2000 + b"\r\n"), 400, "line before a chunk is longer than 1024"),
        (post(CHUNKED, body=(b"1;" + b"x" * 900 + b"\r\na\r\n") * 30), 400, "extensions of the chunks are longer"),
        (post(CHUNKED, body=b"0\r\nnonsense\r\n\r\n"), 400, "Malformed trailer field: 'nonsense'"),
        (post(CHUNKED, body=b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n"), 431, "trailer fields are too many"),
        (post(b"Expect: 200-ok"), 417, "Expect: 200-ok cannot be met"),
        (post(b"Content-Encoding: br"), 415, "Content-Encoding: br is not read here; use gzip, deflate, identity"),
        (post(b"Content-Encoding: gzip", b"Content-Length: 2", body=b"{}"), 400, "the body is not valid gzip"),
        (
            post(b"Content-Encoding: gzip", b"Content-Length: 27", body=gzip.compress(b" " * 1001, mtime=0)[:27]),
            413,
            "larger than 1000 bytes when it is unpacked",
        ),
    ],
)
def test_what_is_no_request_is_refused(data, status, text):
    found, message = refusal(data)
    assert (found, text in message) == (status, True), message


def test_an_error_says_in_which_encodings_a_body_may_come():
    with pytest.raises(HttpError) as caught:
        RequestReader(io.BytesIO(post(b"Content-Encoding: zstd")), MAX_BODY, lambda: None).read()
    assert caught.value.fields == {"Accept-Encoding": "gzip, deflate, identity"}


def test_the_fields_before_an_error_are_known():
    reader = RequestReader(io.BytesIO(post(b"Origin: https://a.example", b"Content-Length: x")), MAX_BODY, lambda: None)
    with pytest.raises(HttpError):
        reader.read()
    assert reader.fields["origin"] == "https://a.example"


SIZES = st.lists(st.integers(1, 30), max_size=200)


@given(requests=st.lists(st.sampled_from(GOOD), min_size=1, max_size=4), sizes=SIZES)
def test_it_does_not_matter_in_which_packets_requests_come(requests, sizes):
    data = b"".join(requests)
    found = outcomes(data, sizes)
    assert found == outcomes(data)
    assert len(found) == len(requests) + 1


MARKS = (b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b";", b",", b"0", b"1", b"chunked", b"\xff", b"HTTP/1.1", b"gzip")


@st.composite
def damaged(draw):
    """Good requests with some bytes replaced, cut out or added."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(GOOD), min_size=1, max_size=2))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(MARKS) | st.binary(max_size=2))
    return bytes(data)


@given(data=damaged(), sizes=SIZES)
def test_damaged_requests_are_read_or_refused_in_whatever_packets_they_come(data, sizes):
    *requests, end = outcomes(data, sizes)
    assert [*requests, end] == outcomes(data)
    assert all(len(request.body) <= MAX_BODY for request in requests)
    assert isinstance(end, int) or end[0] in (400, 413, 414, 415, 417, 431, 501, 505)
