"""Bodies that are compressed on their way (`Content-Encoding`, `Accept-Encoding`)."""

import gzip
import zlib

ACCEPTED_ENCODINGS = "gzip, deflate, identity"
"""What a request may come in, as a header field says it."""

_GZIP_FROM = 16 << 10
"""Answers of so many bytes are compressed for clients that accept it: the transfer of smaller ones takes no time."""
_MAX_MEMBERS = 16
"""Of a gzip file, which may be several joined together."""
_GZIP, _ZLIB, _RAW = 31, 15, -15  # of zlib's `wbits`


class ContentError(Exception):
    """A body that cannot be unpacked; the message says why."""


class ContentTooLarge(ContentError):
    """A body that is larger than allowed when it is unpacked."""


def content_encoding(field: str) -> str:
    """How a body is compressed: `gzip`, `deflate` or not at all (`identity`).

    Args:
        field: of `Content-Encoding`; empty if there is none.

    Raises:
        ContentError: in another way.
    """
    name = field.strip().lower() or "identity"
    name = "gzip" if name == "x-gzip" else name
    if name not in ("gzip", "deflate", "identity"):
        raise ContentError(f"Content-Encoding: {field[:80]} is not read here; use {ACCEPTED_ENCODINGS}")
    return name


def decode(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Unpacks a body, and stops where it becomes too large.

    Args:
        body: as it was sent.
        encoding: from `content_encoding`.
        max_bytes: that the result may have.

    Raises:
        ContentError: it is damaged, or too large (`ContentTooLarge`).
    """
    if encoding == "identity":
        return body
    parts: list[bytes] = []
    rest = max_bytes
    for _ in range(_MAX_MEMBERS):
        unpack = zlib.decompressobj(_GZIP if encoding == "gzip" else _deflate_format(body))
        try:
            parts.append(unpack.decompress(body, rest + 1))
        except zlib.error as error:
            raise ContentError(f"Content-Encoding: the body is not valid {encoding}: {error}") from error
        rest -= len(parts[-1])
        if rest < 0:
            raise ContentTooLarge
        if not unpack.eof:
            raise ContentError(f"Content-Encoding: the body is not valid {encoding}: it is cut off")
        body = unpack.unused_data
        if not body:
            return b"".join(parts)
        if encoding != "gzip":
            break
    raise ContentError(f"Content-Encoding: the body is not valid {encoding}: something follows its end")


def encode(body: bytes, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
    """Compresses an answer if it is large and the client accepts it.

    Args:
        body: of the answer.
        accept_encoding: the client's field; empty if there is none.

    Returns:
        The body, and header fields that say what was done.
    """
    if len(body) < _GZIP_FROM:
        return body, {}
    if not _accepts_gzip(accept_encoding):
        return body, {"Vary": "Accept-Encoding"}
    return gzip.compress(body, 1, mtime=0), {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}


def _accepts_gzip(accept_encoding: str) -> bool:
    for element in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        if name in ("gzip", "x-gzip"):
            return not any(parameter.replace(" ", "").strip("0.") == "q=" for parameter in parameters)
    return False


def _deflate_format(body: bytes) -> int:
    """HTTP means zlib's format by `deflate`; some clients leave out the head and the checksum around the data."""
    has_head = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return _ZLIB if has_head else _RAW
