"""A page to rank, in the terms of a client."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.records import HISTORIES


class PageError(InputError):
    """What was given is no page; the message names the part."""


class History(NamedTuple):
    """What a user has done, newest first.

    Attributes:
        item_ids: the items.
        times: when, in epoch milliseconds; one per item.
    """

    item_ids: Sequence[str] = ()
    times: Sequence[int] = ()


def _now() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Page:
    """One user, one moment and the items that may be shown.

    Attributes:
        user_id: the user; an unknown one is scored as such.
        item_ids: the candidates; items that the ranker does not know may be among them.
        timestamp: the moment, in epoch milliseconds; now if it is not given.
        query: what was searched for, if anything.
        histories: `click`, `pay` and `cart`; those left out are empty.
        candidates: what else is known of the candidates: name of an input (`impressions_7d`, for example) to one value
            for each.
        page_id: what logs call the page; no ranker reads it.

    Raises:
        PageError: lengths differ, or a history has another name.
    """

    user_id: str
    item_ids: Sequence[str]
    timestamp: int = field(default_factory=_now)
    query: str = ""
    histories: Mapping[str, History] = field(default_factory=dict)
    candidates: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    page_id: str = ""

    def __post_init__(self) -> None:
        for name, history in self.histories.items():
            if name not in HISTORIES:
                raise PageError(f"histories: must be of {', '.join(HISTORIES)}. Received: {name!r}")
            if len(history.item_ids) != len(history.times):
                raise PageError(
                    f"{name}_time: must have one value per {name}_item_id. "
                    f"Received: {len(history.times)} for {len(history.item_ids)}"
                )
        for name, values in self.candidates.items():
            if len(values) != len(self.item_ids):
                raise PageError(f"{name}: must have one value per item_id. Received: {len(values)}")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Page":
        """Reads a page as REST requests say it: one element of `instances`.

        Args:
            row: `user_id` and `item_id`, and optionally `timestamp`, `query`, `page_id`, `click_item_id`, `click_time`
                and so on, and more lists with one value per candidate.

        Raises:
            PageError: it is no page.
        """
        rest = dict(row)
        try:
            user_id, item_ids = rest.pop("user_id"), rest.pop("item_id")
        except KeyError as error:
            raise PageError(f"a page must have {error}. Received: {', '.join(sorted(row)) or 'nothing'}") from error
        timestamp, query, page_id = rest.pop("timestamp", None), rest.pop("query", ""), rest.pop("page_id", "")
        for name, value in (("user_id", user_id), ("query", query), ("page_id", page_id)):
            if not isinstance(value, str):
                raise PageError(f"{name}: must be text. Received: {value!r}")
        if timestamp is not None and type(timestamp) is not int:
            raise PageError(f"timestamp: must be a whole number of milliseconds. Received: {timestamp!r}")
        histories = {name: History(rest.pop(f"{name}_item_id", []), rest.pop(f"{name}_time", [])) for name in HISTORIES}
        lists = {"item_id": item_ids, **rest}
        for name, history in histories.items():
            lists |= {f"{name}_item_id": history.item_ids, f"{name}_time": history.times}
        for name, values in lists.items():
            if not isinstance(values, list):
                raise PageError(f"{name}: must be a list. Received: {str(values)[:80]}")
        moment = _now() if timestamp is None else timestamp
        return cls(user_id, item_ids, moment, query, histories, rest, page_id)
