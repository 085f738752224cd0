"""Moments: epoch milliseconds, and how people write them."""

import datetime
from typing import Literal

TimestampUnit = Literal["seconds", "milliseconds", "iso"]

LATEST_TIMESTAMP = 253_402_300_799_999
"""The end of the year 9999 in epoch milliseconds: anything later is a unit mistaken for another."""
FIRST_MILLISECONDS = 1e11
"""A number from here on is epoch milliseconds (in seconds it would be the year 5138), below it is seconds."""


def parse_iso(text: str | None) -> int | None:
    """An ISO-8601 date or time as epoch milliseconds, or `None`; without a zone it means UTC."""
    try:
        moment = datetime.datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)


def parse_moment(text: str) -> int | None:
    """A moment given as ISO-8601 or as epoch seconds or milliseconds, in epoch milliseconds, or `None`."""
    if not text.isdecimal():
        return parse_iso(text)
    return int(text) if int(text) >= FIRST_MILLISECONDS else 1000 * int(text)
