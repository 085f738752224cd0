"""The figures of a dataset as text: a table of its pages, and what its manifest says beyond them."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from beam_pipelines.format.manifest import PRETRAINING, Join, Manifest
from beam_pipelines.inspection.page_statistics import PageStatistics


def figures(statistics: dict[str, PageStatistics]) -> list[list[str]]:
    """The table: a column per split, one of all if there are several, and one of the view for pre-training."""
    columns = {name: counted for name, counted in statistics.items() if name != PRETRAINING}
    if len(columns) > 1:
        columns["all"] = PageStatistics.merged(columns.values())
    if PRETRAINING in statistics:
        columns[PRETRAINING] = statistics[PRETRAINING]
    rows: dict[str, Callable[[PageStatistics], str]] = {
        "users (# User)": lambda s: f"{s.users.sum():,}",
        "items (# Item)": lambda s: f"{s.items.sum():,}",
        "pages": lambda s: f"{s.pages:,}",
        "impressions (# Samples)": lambda s: f"{s.impressions:,}",
        "CTR": lambda s: f"{s.ctr:.4f}",
        "click history (# Hist)": lambda s: f"{s.mean_history('click'):.2f}",
        "payment history": lambda s: f"{s.mean_history('pay'):.2f}",
        "cart": lambda s: f"{s.mean_history('cart'):.2f}",
        "page length (# PV Items)": lambda s: f"{s.mean_candidates:.2f}",
        "pages with both classes": lambda s: f"{s.pages_with_both_classes / s.pages:.1%}",
        "candidates with picture": lambda s: f"{s.impressions_with_picture / s.impressions:.1%}",
        "first day (UTC)": lambda s: moment_text(s.first, "D"),
        "last day (UTC)": lambda s: moment_text(s.last, "D"),
    }
    return [["", *columns], *([label, *map(figure, columns.values())] for label, figure in rows.items())]


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What the manifest says beyond the pages."""
    images, items = manifest.images, manifest.items.file.records
    stored = f"{images.stored:,} stored, for {images.items_with_image:,} of {items:,} items" if images else "none"
    rejected = {}
    for name, count in manifest.counters.items():
        if name.startswith("rejected."):
            _, table, reason = name.split(".", 2)
            rejected[f"{reason} ({table})"] = count
    view = manifest.pretraining
    learned = "none"
    if view is not None:
        learned = (
            f"{view.kind} view, at most {view.max_candidates} candidates and {view.max_clicks} clicks, "
            f"{view.negative_rate:.0%} of the unclicked"
            + (f", categories {', '.join(view.categories)}" if view.categories else "")
        )
    return [
        ("pre-training", learned),
        ("pictures", stored),
        ("items without picture", _listed(images.missing) if images else "all"),
        ("rejected rows", _listed(rejected)),
        ("joined rows", ", ".join(map(_joined, manifest.joins.items())) or "not counted"),
        ("lost values", ", ".join(_lost_values(manifest)) or "none"),
    ]


def _joined(entry: tuple[str, Join]) -> str:
    name, join = entry
    return f"{join.share:.1%} of {name.replace('.', ' with ')} ({join.joined:,} of {join.rows:,})"


def _lost_values(manifest: Manifest) -> Iterator[str]:
    for name, values in manifest.columns.items():
        if values.read < values.present:
            yield f"{values.present - values.read:,} of {values.present:,} in {name}"
        if values.markers:
            yield f"{values.markers:,} markers of missing ones in {name}"


def _listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none"


def moment_text(milliseconds: int, unit: Literal["D", "m"]) -> str:
    """A moment as text, to the day or to the minute, in UTC."""
    return str(np.datetime_as_string(np.datetime64(milliseconds, "ms"), unit=unit))
