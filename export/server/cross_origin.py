"""Which web pages of other origins may read the answers (CORS)."""

import re
from collections.abc import Mapping, Sequence

from beam_pipelines.format.errors import InputError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s,]+", re.IGNORECASE)
_PREFLIGHT_SECONDS = 600


class CrossOrigin:
    """The header fields that let a browser hand an answer to a page of another origin.

    Args:
        origins: of such pages, `https://shop.example` for one; `*` for all. Empty for none.

    Raises:
        InputError: one of them is no origin.
    """

    def __init__(self, origins: Sequence[str] = ()) -> None:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise InputError(
                    f"`cors_origin` must be * or SCHEME://HOST[:PORT], without anything after it. Received: {origin!r}"
                )
        self._origins = {origin.lower() for origin in origins}

    def fields(self, request: Mapping[str, str]) -> dict[str, str]:
        """The header fields of an answer.

        Args:
            request: the header fields of the request.
        """
        if not self._origins:
            return {}
        if "*" in self._origins:
            return {"Access-Control-Allow-Origin": "*"}
        if (origin := request.get("origin", "")).lower() not in self._origins:
            return {"Vary": "Origin"}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def preflight_fields(self, request: Mapping[str, str], methods: str) -> dict[str, str]:
        """What is added to them where a browser asks in advance what a page may send.

        Args:
            request: the header fields of the request.
            methods: that the server has, by commas.
        """
        if "Access-Control-Allow-Origin" not in self.fields(request) or "access-control-request-method" not in request:
            return {}
        fields = {"Access-Control-Allow-Methods": methods, "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS)}
        if names := request.get("access-control-request-headers"):
            fields["Access-Control-Allow-Headers"] = names
        return fields
