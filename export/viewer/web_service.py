"""The viewer over HTTP: read only, for a browser on this machine and nobody else."""

import json
import logging
import re
import urllib.parse
from collections.abc import Callable, Mapping
from importlib import resources

from export.server.http_request import HttpError, HttpRequest
from export.server.http_response import HttpResponse
from export.viewer.answers import Answers, Document, NotThere
from export.viewer.stored_pages import PageNumber

_LOG = logging.getLogger("export.viewer")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_FIELDS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "/elements.js": ("elements.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_KEPT = "private, max-age=86400, immutable"
_NUMBER = r"([0-9]{1,12})"
_PAGE = rf"/([a-z]{{1,20}})/{_NUMBER}"


class WebService:
    """Answers a browser's requests.

    A page of another origin can neither read the answers nor make this machine's browser ask under another name: `Host`
    must be ours, which a name that was rebound to this address is not, and so must `Origin`, where there is one.

    Args:
        answers: what is answered.
        port: where it listens.
    """

    def __init__(self, answers: Answers, port: int) -> None:
        self._answers = answers
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        folder = resources.files("export.viewer") / "static"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
        self._routes: list[tuple[re.Pattern[str], Callable[..., Document]]] = [
            (re.compile("/api/about"), answers.about),
            (re.compile(f"/api/pages{_PAGE}"), lambda *page: answers.page(_page(*page))),
            (re.compile(f"/api/scores{_PAGE}/([^/]+)"), self._scores),
            (re.compile(f"/api/explanation{_PAGE}"), lambda *page: answers.explanation(_page(*page))),
            (re.compile(f"/api/users/{_NUMBER}"), lambda row: answers.user(int(row))),
            (re.compile(f"/api/items/{_NUMBER}"), lambda row: answers.item(int(row))),
            (re.compile("/api/find/([a-z]+)/([^/]+)"), lambda kind, text: answers.find(kind, _decoded(text))),
        ]
        self._picture = re.compile(f"/pictures/{answers.pictures}/{_NUMBER}")

    def answer(self, request: HttpRequest) -> HttpResponse:
        """Answers a request."""
        try:
            response = self._refusal(request) or self._respond(request.path)
        except NotThere as error:
            response = HttpResponse.of_error(404, str(error))
        except Exception:
            _LOG.exception("%s failed", request.path)
            response = HttpResponse.of_error(500, "internal error, see the viewer's log")
        return response._replace(fields={**_FIELDS, **response.fields})

    def refuse(self, error: HttpError, fields: Mapping[str, str]) -> HttpResponse:
        """Answers what is no HTTP request."""
        del fields
        refusal = HttpResponse.of_error(error.status, error.message)
        return refusal._replace(fields={**_FIELDS, **refusal.fields, **error.fields})

    def _refusal(self, request: HttpRequest) -> HttpResponse | None:
        fields = request.fields
        if fields.get("host", "").lower() not in self._hosts:
            return HttpResponse.of_error(421, f"This is {min(self._hosts)}")
        origin = fields.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self._hosts}:
            return HttpResponse.of_error(403, "Pages of other origins are not answered")
        if fields.get("sec-fetch-site", "none").lower() not in ("same-origin", "none"):
            return HttpResponse.of_error(403, "Pages of other sites are not answered")
        if request.method != "GET":
            refused = HttpResponse.of_error(405, "There is nothing but GET")
            return refused._replace(fields={**refused.fields, "Allow": "GET"})
        return None

    def _respond(self, path: str) -> HttpResponse:
        if path in self._files:
            body, kind = self._files[path]
            return HttpResponse(200, body, {"Content-Type": kind})
        if matched := self._picture.fullmatch(path):
            return self._picture_of(int(matched[1]))
        for pattern, answer in self._routes:
            if matched := pattern.fullmatch(path):
                return HttpResponse.of_text(200, json.dumps(answer(*matched.groups()), ensure_ascii=False))
        raise NotThere("there is nothing under this address")

    def _picture_of(self, row: int) -> HttpResponse:
        catalogue = self._answers.catalogue
        picture = catalogue.picture(row) if row < catalogue.items.num_rows else None
        if picture is None:
            raise NotThere(f"item {row} has no picture")
        return HttpResponse(200, picture, {"Content-Type": catalogue.picture_type, "Cache-Control": _KEPT})

    def _scores(self, split: str, number: str, choice: str) -> Document:
        return self._answers.scores(_page(split, number), _decoded(choice))


def _page(split: str, number: str) -> PageNumber:
    return PageNumber(split, int(number))


def _decoded(text: str) -> str:
    try:
        return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise NotThere("the address is no UTF-8") from error
