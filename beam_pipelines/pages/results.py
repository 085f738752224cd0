"""What the workers say of the shards that they wrote, put together for the manifest."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from beam_pipelines.exchange import DIFFERENT_WORKERS
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import PRETRAINING, SPLITS, File, Split, Window
from beam_pipelines.format.records import HISTORIES
from beam_pipelines.pages.reused_pages import AFTER_A_PAUSE, SEVERAL_USERS, Example
from beam_pipelines.pages.rules import PageRules

_COUNTED_AS = {SEVERAL_USERS: "pages.of_several_users", AFTER_A_PAUSE: "pages.after_a_pause"}
_CURE = "make page_id one for each page shown, or pass `split_reused_pages`"


class PageResults(NamedTuple):
    """The written pages.

    Attributes:
        reused: why rows were rejected because of a page ID that is used again, to an example.
        splits: by name, in the order of `SPLITS`; those without a page are absent.
        view: the pages that pre-training sees; `None` if there are none.
        max_candidates: candidates on the longest page, the view left out.
    """

    reused: dict[str, Example]
    splits: dict[str, Split]
    view: Split | None
    max_candidates: int


def put_pages_together(
    written: Iterable[dict[str, Any]],
    counters: Counter[str],
    rules: PageRules,
    view_negatives: float,
    max_bad_fraction: float,
) -> PageResults:
    """Puts together what was written of each bucket.

    Args:
        written: from `WritePages`: the number of the `bucket`; `shards`, split to the `file` and what is in it;
            `counters`; and `reused`, the fields of an `Example` by reason. What comes twice must be equal.
        counters: what the workers counted is added here.
        rules: what pages were made by.
        view_negatives: share of the unclicked candidates that the view kept.
        max_bad_fraction: of the page IDs.

    Raises:
        InputError: more page IDs are used again; or a bucket was written twice, and differently.
    """
    shards: dict[str, list[dict[str, Any]]] = {}
    reused: dict[str, list[Example]] = {}
    for result in _one_of_each(written):
        counters.update(result["counters"])
        for name, shard in result["shards"].items():
            shards.setdefault(name, []).append(shard)
        for reason, example in result["reused"].items():
            reused.setdefault(reason, []).append(Example(*example))
    longest = {reason: Example.longest(examples) for reason, examples in reused.items()}
    for reason, example in longest.items():
        _check_reused(reason, example, counters, rules, max_bad_fraction)
    view = shards.pop(PRETRAINING, None)
    rates = {"train": rules.train_negatives}
    return PageResults(
        splits={name: _split(shards[name], rates.get(name, 1.0)) for name in SPLITS if name in shards},
        view=_split(view, view_negatives) if view else None,
        reused=longest,
        max_candidates=max((shard["max_candidates"] for found in shards.values() for shard in found), default=0),
    )


def _one_of_each(written: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """By bucket: engines may write one twice."""
    by_bucket: dict[int, dict[str, Any]] = {}
    for result in written:
        if by_bucket.setdefault(result["bucket"], result) != result:
            raise InputError(f"bucket {result['bucket']} was written twice, and differently: {DIFFERENT_WORKERS}")
    return [by_bucket[bucket] for bucket in sorted(by_bucket)]


def what_is_odd(pages: PageResults, counters: Counter[str], rules: PageRules) -> list[str]:
    """How many page IDs are used again, rows repeat others, and items share a position, in words.

    Args:
        pages: the written pages.
        counters: what was counted of them, dead letters included.
        rules: what pages were made by.
    """
    told = []
    for reason, example in pages.reused.items():
        rows = counters[f"rejected.impressions.{reason}"]
        told.append(f"{_reused(reason, example, counters, rules)}; {rows} rows rejected: {_CURE}")
    if parts := counters["pages.split"]:
        reused = counters["pages.of_several_users"] + counters["pages.after_a_pause"]
        named = counters["pages.named"]
        told.append(f"impressions: {reused} of {named} page IDs are used again and make {parts} pages")
    if conflicting := counters["impressions.conflicting"]:
        told.append(
            f"impressions: {conflicting} rows repeat an item of their page with other values; a clicked row wins"
        )
    if same := counters["impressions.same_position"]:
        told.append(f"impressions: {same} candidates have the position of another one on their page")
    return told


def _check_reused(
    reason: str, example: Example, counters: Counter[str], rules: PageRules, max_bad_fraction: float
) -> None:
    if counters[_COUNTED_AS[reason]] > max_bad_fraction * counters["pages.named"]:
        found = _reused(reason, example, counters, rules)
        raise InputError(f"{found}; {_CURE} (`max_bad_fraction` allows {max_bad_fraction:g})")


def _reused(reason: str, example: Example, counters: Counter[str], rules: PageRules) -> str:
    """How many page IDs are used again, and one of them."""
    how = (
        "by several users"
        if reason == SEVERAL_USERS
        else f"again after more than {rules.page_gap_minutes:g} minutes (`page_gap_minutes`)"
    )
    user = hashlib.sha256(example.user_id.encode()).hexdigest()[:8]
    share = f"{counters[_COUNTED_AS[reason]]} of {counters['pages.named']}"
    return (
        f"impressions: {share} page IDs are used {how}, for example "
        f"{_shortened(example.page_id)} by the user whose ID has the SHA-256 {user}... from {_date(example.first)} to "
        f"{_date(example.last)}"
    )


def _date(moment: int) -> str:
    return f"{np.datetime64(moment // 1000, 's')}Z"


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _split(shards: list[dict[str, Any]], negative_rate: float) -> Split:
    lengths = {
        name: [
            sum(column) for column in itertools.zip_longest(*(s["history_lengths"][name] for s in shards), fillvalue=0)
        ]
        for name in HISTORIES
    }
    return Split(
        pages=sum(shard["file"]["records"] for shard in shards),
        impressions=sum(shard["impressions"] for shard in shards),
        clicks=sum(shard["clicks"] for shard in shards),
        window=Window(first=min(shard["first"] for shard in shards), last=max(shard["last"] for shard in shards)),
        negative_rate=negative_rate,
        history_lengths=lengths,
        shards=[File(**shard["file"]) for shard in shards],
    )
