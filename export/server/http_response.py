"""Answers as HTTP/1.1 has them."""

import email.utils
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

_JSON = "application/json"
_PHRASES = {**{int(status): status.phrase for status in HTTPStatus}, 499: "Client Closed Request"}
_NO_CONTENT = 204


class HttpResponse(NamedTuple):
    """An answer.

    Attributes:
        status: its code.
        body: its bytes.
        fields: header fields apart from `Date`, `Connection` and `Content-Length`.
    """

    status: int
    body: bytes = b""
    fields: Mapping[str, str] = {}

    @classmethod
    def of_text(cls, status: int, text: str, content_type: str = _JSON) -> "HttpResponse":
        """An answer in UTF-8."""
        # An error may quote half of a surrogate pair.
        return cls(status, text.encode("utf-8", "replace"), {"Content-Type": content_type})

    @classmethod
    def of_error(cls, status: int, message: str) -> "HttpResponse":
        """TensorFlow Serving's answer to a request that fails."""
        return cls.of_text(status, json.dumps({"error": message}, ensure_ascii=False))

    def to_bytes(self, connection: str = "", *, with_body: bool = True) -> bytes:
        """The answer on the line.

        Args:
            connection: says what becomes of the connection; nothing if it is empty.
            with_body: an answer to `HEAD` has none.
        """
        fields = {"Date": email.utils.formatdate(usegmt=True), **self.fields}
        if self.status != _NO_CONTENT:
            fields["Content-Length"] = str(len(self.body))
        if connection:
            fields["Connection"] = connection
        lines = [f"HTTP/1.1 {self.status} {_PHRASES[self.status]}", *(f"{name}: {fields[name]}" for name in fields)]
        head = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
        return head + self.body if with_body else head
