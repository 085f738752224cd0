import http.client
import json
import socket
import urllib.parse

import pytest

from export.viewer.stored_pages import PageNumber
from tests.export.viewer.shop import NO_PICTURE, picture_of


def ask(port, path, method="GET", **fields):
    """Status, header fields and body of a request; `fields` with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in fields.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


def document(port, path, **fields):
    status, fields, body = ask(port, path, **fields)
    assert fields["Content-Type"] == "application/json"
    return status, json.loads(body)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/viewer.js", "text/javascript"),
        ("/viewer.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_the_page_loads_nothing_from_elsewhere(port, path, kind):
    status, fields, body = ask(port, path)
    assert (status, fields["Content-Type"].partition(";")[0]) == (200, kind)
    assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"style=" not in body
    assert b"innerHTML" not in body


@pytest.mark.parametrize("path", ["/", "/api/about", "/nothing", "/api/pages/test/99"])
def test_every_answer_has_the_policy(port, path):
    _, fields, _ = ask(port, path)
    policy = fields["Content-Security-Policy"]
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
    )
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert fields["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in fields
    assert fields["Cache-Control"] == "no-store"


def test_documents_are_asked_for_by_path(port, answers):
    status, page = document(port, "/api/pages/test/0")
    assert (status, page["shown"]) == (200, answers.page(PageNumber("test", 0))["shown"])
    for path in ("scores/test/1/version%2011", "explanation/test/0", "users/0", "items/3", "find/item/gold%20item"):
        assert document(port, f"/api/{path}")[0] == 200
    words = urllib.parse.quote("خاتم ذهب", safe="")
    assert [found["row"] for found in document(port, f"/api/find/item/{words}")[1]["found"]] == [1]


def test_pictures_are_kept_by_browsers(port, answers):
    status, fields, body = ask(port, f"/pictures/{answers.pictures}/0")
    assert (status, body, fields["Content-Type"]) == (200, picture_of(0), "image/jpeg")
    assert "immutable" in fields["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/pages/test/2",
        "/api/pages/test/-1",
        "/api/pages/test/1e9",
        "/api/pages/../0",
        "/api/scores/test/0/best",
        "/api/items/35",
        "/api/items/999999999999",
        "/api/find/item/%ff",
        "/api/find/shop/x",
        "/static/viewer.js",
        "/../__main__.py",
        "/%2e%2e/__main__.py",
        f"/pictures/PICTURES/{NO_PICTURE}",
        "/pictures/PICTURES/35",
        "/pictures/other/0",
    ],
)
def test_what_is_not_there_is_404(port, answers, path):
    status, answer = document(port, path.replace("PICTURES", answers.pictures))
    assert status == 404
    assert answer["error"]


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_there_is_nothing_but_get(port, method):
    status, fields, _ = ask(port, "/", method)
    assert (status, fields["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Host": "localhost:PORT"}, 200),
        ({"Host": "LOCALHOST:PORT"}, 200),
        ({"Host": "127.0.0.1"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Host": "shop.example:PORT"}, 421),
        ({"Host": "shop.example"}, 421),
        ({"Host": "127.0.0.1.shop.example:PORT"}, 421),
        ({"Origin": "http://127.0.0.1:PORT"}, 200),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://127.0.0.1:PORT"}, 403),
        ({"Origin": "http://shop.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/about"])
def test_other_names_and_other_pages_are_refused(port, path, fields, status):
    sent = {name: value.replace("PORT", str(port)) for name, value in fields.items()}
    assert ask(port, path, **sent)[0] == status


def test_requests_without_a_host_or_with_a_body_are_refused(port):
    for request, status in ((b"GET / HTTP/1.0\r\n\r\n", b"421"), (b"GET / HTTP/1.1\r\n\r\n", b"400")):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request)
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"Content-Security-Policy" in answer
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/", body=b"x")
    assert connection.getresponse().status == 413
    connection.close()


def test_it_listens_on_one_address_of_this_machine_alone(port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
