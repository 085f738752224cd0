"""The REST API as clients of all kinds speak HTTP."""

import gzip
import http.client
import json
import re
import zlib

import pytest

from beam_pipelines.format.errors import InputError
from export.server.cross_origin import CrossOrigin
from tests.export.toy_server import GOOD_ROWS, MAX_REQUEST_BYTES, rest, serve_toy

PATH = "/v1/models/toy:predict"
SHOP = "https://shop.example"
BODY = json.dumps({"instances": GOOD_ROWS}).encode()
SCORES = [5.0, 11.0]


@pytest.fixture(scope="module")
def base_path(toy_saved_model, tmp_path_factory):
    base = tmp_path_factory.mktemp("rest")
    (base / "3").symlink_to(toy_saved_model)
    return base


@pytest.fixture(scope="module")
def endpoint(base_path, toy_saved_model):
    """A server whose answers pages of a shop may read."""
    root = toy_saved_model.parent.parent
    with serve_toy(base_path, cross_origin=CrossOrigin([SHOP]), root=root) as (_, listening):
        yield listening


@pytest.fixture(scope="module")
def connection(endpoint):
    host, port = re.search(r"//(.*):(\d+)/", endpoint.rest).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    yield connection
    connection.close()


def ask(connection, method, path, body=None, fields=None, **options):
    """Status, header fields and document of an answer."""
    connection.request(method, path, body, fields or {}, **options)
    response = connection.getresponse()
    data = response.read()
    if response.headers["Content-Encoding"] == "gzip":
        data = gzip.decompress(data)
    return response.status, response.headers, json.loads(data) if data else None


def scores(document):
    return [row["score"] for row in document["predictions"]]


@pytest.mark.parametrize(
    "target",
    [
        PATH,
        "http://recommender.example:8501" + PATH,
        "/v1/models/toy%3Apredict",
        "/v1/models/toy%3apredict?request=7",
        "/v1/models/%74oy/versions/3:predict",
    ],
)
def test_a_target_may_be_written_in_several_ways(connection, target):
    status, _, document = ask(connection, "POST", target, BODY)
    assert (status, scores(document)) == (200, SCORES)


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("/v1/models/toy:predict/", 400, "Malformed request: POST /v1/models/toy:predict/"),
        ("/v1/models//:predict", 400, "Malformed request"),
        ("/v1/models/toy%00:predict", 404, "Servable not found for request: Latest(toy\0)"),
        ("*", 404, ""),
    ],
)
def test_other_targets_are_refused(connection, target, status, text):
    code, _, document = ask(connection, "POST", target, BODY)
    assert (code, text in (document["error"] if document else "")) == (status, True)


def test_a_body_may_come_in_chunks(connection):
    pieces = [BODY[:1], BODY[1:50], BODY[50:]]
    for fields in ({}, {"Content-Encoding": "gzip"}):
        body = [gzip.compress(BODY)] if fields else pieces
        status, _, document = ask(connection, "POST", PATH, iter(body), fields, encode_chunked=True)
        assert (status, scores(document)) == (200, SCORES)
    too_large = iter([b" " * 1000] * (MAX_REQUEST_BYTES // 1000 + 1))
    status, _, document = ask(connection, "POST", PATH, too_large, encode_chunked=True)
    assert (status, document) == (413, {"error": f"The request is larger than {MAX_REQUEST_BYTES} bytes"})


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_may_be_compressed(connection, encoding, pack):
    status, _, document = ask(connection, "POST", PATH, pack(BODY), {"Content-Encoding": encoding})
    assert (status, scores(document)) == (200, SCORES)
    bomb = pack(BODY + b" " * 20_000_000)
    status, fields, document = ask(connection, "POST", PATH, bomb, {"Content-Encoding": encoding})
    assert (status, fields["Connection"]) == (413, "close")
    assert document == {"error": f"The request is larger than {MAX_REQUEST_BYTES} bytes when it is unpacked"}


def test_another_encoding_is_refused_by_name(connection):
    status, fields, document = ask(connection, "POST", PATH, BODY, {"Content-Encoding": "br"})
    assert (status, fields["Accept-Encoding"]) == (415, "gzip, deflate, identity")
    assert document == {"error": "Content-Encoding: br is not read here; use gzip, deflate, identity"}


def test_a_large_answer_is_compressed_where_that_is_accepted(connection):
    many = json.dumps({"instances": GOOD_ROWS * 500})
    plain = ask(connection, "POST", PATH, many)
    packed = ask(connection, "POST", PATH, many, {"Accept-Encoding": "gzip"})
    assert plain[2] == packed[2]
    assert int(packed[1]["Content-Length"]) < int(plain[1]["Content-Length"]) / 5
    assert plain[1]["Vary"] == "Accept-Encoding, Origin"


def test_head_is_get_without_a_body(connection):
    status, got, _ = ask(connection, "GET", "/v1/models/toy")
    assert status == 200
    status, fields, document = ask(connection, "HEAD", "/v1/models/toy")
    assert (status, fields["Content-Length"], document) == (200, got["Content-Length"], None)
    assert ask(connection, "HEAD", "/v1/models/x")[0] == 404


def test_a_connection_survives_requests_that_cannot_be_answered(connection):
    for method, path, body, status in (
        ("POST", "/nowhere", BODY, 404),
        ("PUT", PATH, BODY, 400),
        ("BREW", PATH, BODY, 501),
        ("POST", PATH, b"{", 400),
        ("GET", "/v1/models/toy", BODY, 200),
    ):
        code, fields, _ = ask(connection, method, path, body)
        assert (code, fields["Connection"]) == (status, None)


def test_pages_of_chosen_origins_may_read_answers(connection):
    question = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-id"}
    status, fields, document = ask(connection, "OPTIONS", PATH, None, {"Origin": SHOP, **question})
    assert (status, fields["Content-Length"], document) == (204, None, None)
    assert fields["Access-Control-Allow-Origin"] == SHOP
    assert fields["Access-Control-Allow-Methods"] == fields["Allow"] == "GET, HEAD, POST, OPTIONS"
    assert fields["Access-Control-Allow-Headers"] == "content-type,x-id"
    for path, body, expected in ((PATH, BODY, 200), (PATH, b"{", 400)):
        status, fields, _ = ask(connection, "POST", path, body, {"Origin": SHOP})
        assert (status, fields["Access-Control-Allow-Origin"], fields["Vary"]) == (expected, SHOP, "Origin")
    # Also what is refused before it is read.
    fields = ask(connection, "POST", PATH, BODY, {"Origin": SHOP, "Content-Encoding": "br"})[1]
    assert fields["Access-Control-Allow-Origin"] == SHOP


def test_pages_of_other_origins_may_not(connection):
    for origin in ({"Origin": "https://other.example"}, {"Origin": "null"}, {}):
        for method in ("OPTIONS", "GET"):
            fields = ask(
                connection, method, "/v1/models/toy", None, {**origin, "Access-Control-Request-Method": "GET"}
            )[1]
            assert (fields["Access-Control-Allow-Origin"], fields["Vary"]) == (None, "Origin")
            assert fields["Access-Control-Allow-Methods"] is None


def test_who_may_read_answers():
    request = {"origin": SHOP}
    assert CrossOrigin().fields(request) == {}
    assert CrossOrigin(["*"]).fields(request) == CrossOrigin(["*"]).fields({}) == {"Access-Control-Allow-Origin": "*"}
    assert CrossOrigin(["http://a", "HTTPS://Shop.example"]).fields(request)["Access-Control-Allow-Origin"] == SHOP
    for origin in ("shop.example", "https://shop.example/", "https://a,https://b", "null", ""):
        with pytest.raises(InputError, match=re.escape(f"Received: {origin!r}")):
            CrossOrigin([origin])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"instances": [{"name": "a", "name": "b", "amount": 1, "counts": [1]}]}', 'the key "name" twice'),
        (b'{"instances": [], "instances": []}', 'the key "instances" twice'),
        (json.dumps({"instances": GOOD_ROWS}).encode("utf-16"), "the body seems to be UTF-16"),
        (b'{"instances": [{"name": {"b64": "YQ*="}, "amount": 1, "counts": [1]}]}', "base64 decode input name"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(endpoint, body, text):
    status, error = rest(endpoint, PATH, body)
    assert (status, text in error) == (400, True), error
