"""What the workers say of the shards that they wrote, put together for the manifest."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import PRETRAINING, SPLITS, File, Split, Window
from beam_pipelines.format.records import HISTORIES
from beam_pipelines.workspace import RESULTS, SCRATCH


class PageResults(NamedTuple):
    """The written pages.

    Attributes:
        splits: by name, in the order of `SPLITS`; those without a page are absent.
        view: the pages that pre-training sees; `None` if there are none.
        max_candidates: candidates on the longest page, the view left out.
    """

    splits: dict[str, Split]
    view: Split | None
    max_candidates: int


def read_page_results(
    dataset: Path, counters: Counter[str], train_negatives: float, view_negatives: float
) -> PageResults:
    """Reads what was written of each bucket.

    Args:
        dataset: the directory.
        counters: what the workers counted is added here.
        train_negatives: share of the unclicked candidates that train pages kept; other splits keep all.
        view_negatives: the same of the view.

    Raises:
        InputError: some of it cannot be seen.
    """
    _check_complete(dataset)
    shards: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((dataset / RESULTS).glob("pages-*.json")):
        result = json.loads(path.read_text())
        counters.update(result["counters"])
        for name, shard in result["shards"].items():
            shards.setdefault(name, []).append(shard)
    view = shards.pop(PRETRAINING, None)
    rates = {"train": train_negatives}
    return PageResults(
        splits={name: _split(shards[name], rates.get(name, 1.0)) for name in SPLITS if name in shards},
        view=_split(view, view_negatives) if view else None,
        max_candidates=max((shard["max_candidates"] for found in shards.values() for shard in found), default=0),
    )


def _check_complete(dataset: Path) -> None:
    """Compares what was prepared with what was written: a shared file system may show old listings."""
    prepared = {path.name.removeprefix("prepared-") for path in (dataset / SCRATCH).glob("prepared-*")}
    written = {path.stem.removeprefix("pages-") for path in (dataset / RESULTS).glob("pages-*.json")}
    if prepared != written:
        raise InputError(
            f"{len(prepared)} buckets were prepared and {len(written)} written, as seen from here: the workers do not "
            "share the output's file system, or it shows old listings"
        )


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
