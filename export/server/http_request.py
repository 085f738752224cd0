"""Requests as HTTP/1.1 has them (RFC 9110 and RFC 9112), read from a stream of bytes.

What two readers could understand in two ways is refused rather than guessed at: a server behind a proxy that guesses
otherwise would answer requests that the proxy has not seen.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from export.server.content_encoding import ACCEPTED_ENCODINGS, ContentError, ContentTooLarge, content_encoding, decode

MAX_REQUEST_LINE = 16 << 10
MAX_FIELDS = 100
MAX_FIELD_BYTES = 64 << 10
"""Of all header fields together, and again of all trailer fields."""
MAX_CHUNK_LINE = 1 << 10
MAX_CHUNK_EXTENSIONS = 16 << 10
"""Of all chunks of a body together."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_FIELD = re.compile(rb"(%b):(%b)" % (_TOKEN, _TEXT))
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*((?:;%b)?)" % _TEXT)
_ORIGIN = re.compile(r"https?://[^/?#]+", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%a-zA-Z_~-]+\]|[^\s\[\]/?#@,:]*)(?::[0-9]*)?")
_LENGTH = re.compile("[0-9]+")
_MAX_LENGTH_DIGITS = 18
_EMPTY_LINES = 3  # that may precede a request: some clients end a body with a line end that its length leaves out


class HttpError(Exception):
    """A request that is refused before anybody has looked at what it asks. The connection cannot be used any further.

    Args:
        status: of the answer.
        message: one line for the client.
        fields: more header fields of the answer.
    """

    def __init__(self, status: int, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.fields = fields or {}


class HttpRequest(NamedTuple):
    """A request.

    Attributes:
        method: as it was sent.
        path: of its target, still percent-encoded; `*` if the whole server is meant.
        fields: header fields by name in lower case; the values of one that was sent several times joined by commas.
        body: complete, and unpacked if it was compressed.
        minor_version: of HTTP/1.
        keeps_alive: whether the client may send another request on the connection.
    """

    method: str
    path: str
    fields: Mapping[str, str]
    body: bytes
    minor_version: int
    keeps_alive: bool


class ByteStream(Protocol):
    """What requests are read from: `io.BufferedReader`, for one."""

    def readline(self, size: int, /) -> bytes:
        """Up to and with the next line end, or `size` bytes, or all that is left."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, or all that is left."""


class RequestReader:
    """Reads the requests of a connection, one after the other.

    Args:
        stream: what the client sends.
        max_body: bytes of a body, as it is sent and again when it is unpacked.
        send_continue: tells the client that it may send the body, which some ask for first.

    Attributes:
        fields: the header fields of the last request, as far as they have been read.
    """

    def __init__(self, stream: ByteStream, max_body: int, send_continue: Callable[[], None]) -> None:
        self.fields: dict[str, str] = {}
        self._stream = stream
        self._max_body = max_body
        self._send_continue = send_continue

    def read(self) -> HttpRequest:
        """The next request.

        Raises:
            HttpError: there is none that can be answered.
        """
        self.fields = {}
        method, target, minor_version = self._read_request_line()
        self._read_fields(self.fields, "header")
        path = _path(target)
        self._check_host(minor_version)
        body = self._read_body(minor_version)
        connection = list_of(self.fields.get("connection", ""))
        keeps_alive = "close" not in connection and (minor_version > 0 or "keep-alive" in connection)
        return HttpRequest(method, path, self.fields, body, minor_version, keeps_alive)

    def _read_request_line(self) -> tuple[str, bytes, int]:
        too_long = HttpError(414, f"The request line is longer than {MAX_REQUEST_LINE} bytes")
        for _ in range(_EMPTY_LINES + 1):
            if line := self._read_line(MAX_REQUEST_LINE, too_long):
                break
        matched = _REQUEST_LINE.fullmatch(line)
        if matched is None:
            raise _malformed(f"Malformed request line: {_excerpt(line)}")
        method, target, major, minor = matched.groups()
        if major != b"1":
            raise HttpError(505, f"HTTP/{major.decode()}.{minor.decode()} is not spoken here; use HTTP/1.1")
        return method.decode(), target, int(minor)

    def _read_fields(self, fields: dict[str, str], kind: str) -> None:
        """Reads fields up to the empty line that ends them."""
        rest = MAX_FIELD_BYTES
        too_large = HttpError(
            431, f"The {kind} fields are too many or too large: up to {MAX_FIELDS} and {MAX_FIELD_BYTES} bytes are read"
        )
        for _ in range(MAX_FIELDS + 1):
            line = self._read_line(rest, too_large)
            if not line:
                return
            rest -= len(line)
            if line[:1] in b" \t":
                raise _malformed(f"A {kind} field goes on in a second line, which HTTP/1.1 has given up")
            matched = _FIELD.fullmatch(line)
            if matched is None:
                raise _malformed(f"Malformed {kind} field: {_excerpt(line)}")
            name, value = matched[1].decode().lower(), matched[2].strip(b" \t").decode("latin-1")
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        raise too_large

    def _check_host(self, minor_version: int) -> None:
        host = self.fields.get("host", None if minor_version else "")
        if host is None:
            raise _malformed("A request of HTTP/1.1 needs the header field Host")
        if not _HOST.fullmatch(host):
            raise _malformed(f"Malformed header field Host: {_excerpt(host.encode('latin-1'))}")

    def _read_body(self, minor_version: int) -> bytes:
        size = self._body_size(minor_version)
        try:
            encoding = content_encoding(self.fields.get("content-encoding", ""))
        except ContentError as error:
            raise HttpError(415, str(error), {"Accept-Encoding": ACCEPTED_ENCODINGS}) from error
        expected = self.fields.get("expect") if minor_version else None  # HTTP/1.0 has no such field
        if expected is not None:
            if expected.lower() != "100-continue":
                raise HttpError(417, f"Expect: {expected[:80]} cannot be met; 100-continue can")
            if size != 0:
                self._send_continue()
        body = self._read_chunks() if size is None else self._read_exactly(size)
        try:
            return decode(body, encoding, self._max_body) if body else body
        except ContentTooLarge as error:
            raise self._too_large(" when it is unpacked") from error
        except ContentError as error:
            raise _malformed(str(error)) from error

    def _body_size(self, minor_version: int) -> int | None:
        """Bytes of the body; `None` if it comes in chunks, which say themselves."""
        length, codings = self.fields.get("content-length"), self.fields.get("transfer-encoding")
        if codings is not None:
            if length is not None:
                raise _malformed("Content-Length and Transfer-Encoding exclude each other")
            if not minor_version:
                raise _malformed("HTTP/1.0 has no Transfer-Encoding")
            chunked = list_of(codings)
            if unknown := set(chunked) - {"chunked"}:
                raise HttpError(501, f"Transfer-Encoding: {min(unknown)[:80]} is not read here; chunked is")
            if len(chunked) != 1:
                raise _malformed("Transfer-Encoding must say chunked once")
            return None
        if length is None:
            return 0
        if not _LENGTH.fullmatch(length):
            raise _malformed(f"Malformed header field Content-Length: {length[:80]}")
        if len(length.lstrip("0")) > _MAX_LENGTH_DIGITS or int(length) > self._max_body:
            raise self._too_large()
        return int(length)

    def _read_chunks(self) -> bytes:
        body = bytearray()
        extensions = 0
        while True:
            too_long = _malformed(f"The line before a chunk is longer than {MAX_CHUNK_LINE} bytes")
            line = self._read_line(MAX_CHUNK_LINE, too_long, strict=True)
            matched = _CHUNK_LINE.fullmatch(line)
            if matched is None:
                raise _malformed(f"Malformed size of a chunk: {_excerpt(line)}")
            extensions += len(matched[2])
            if extensions > MAX_CHUNK_EXTENSIONS:
                raise _malformed(f"The extensions of the chunks are longer than {MAX_CHUNK_EXTENSIONS} bytes")
            size = int(matched[1], 16)
            if len(body) + size > self._max_body:
                raise self._too_large()
            if not size:
                break
            body += self._read_exactly(size)
            if self._read_exactly(2) != b"\r\n":
                raise _malformed("A chunk is not as long as it says")
        self._read_fields({}, "trailer")  # nobody asks for any
        return bytes(body)

    def _read_line(self, limit: int, too_long: HttpError, *, strict: bool = False) -> bytes:
        """A line without its end, which outside of bodies may also be a line feed alone."""
        line = self._stream.readline(limit + 2)
        if line.endswith(b"\r\n"):
            return line[:-2]
        if line.endswith(b"\n") and not strict:
            return line[:-1]
        if len(line) >= limit + 2:
            raise too_long
        raise _malformed("Malformed end of a line" if line.endswith(b"\n") else "The request is cut off")

    def _read_exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise _malformed(f"The request is cut off: {len(data)} bytes in place of {size}")
        return data

    def _too_large(self, when: str = "") -> HttpError:
        return HttpError(413, f"The request is larger than {self._max_body} bytes{when}")


def list_of(value: str) -> list[str]:
    """The elements of a field whose value is a list, in lower case."""
    return [element for part in value.lower().split(",") if (element := part.strip(" \t"))]


def _path(target: bytes) -> str:
    """The path of a target, which may be a whole URL, as proxies are sent."""
    try:
        text = target.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"Malformed target: {_excerpt(target)}") from error
    if matched := _ORIGIN.match(text):
        text = text[matched.end() :]
        text = text if text.startswith("/") else f"/{text}"
    path = text.partition("?")[0]
    if not path.startswith("/") and path != "*":
        raise _malformed(f"Malformed target: {_excerpt(target)}")
    return path


def _malformed(message: str) -> HttpError:
    return HttpError(400, message)


def _excerpt(data: bytes) -> str:
    return ascii(data[:80].decode("latin-1"))
