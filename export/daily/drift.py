"""Drift of what a ranker reads and says: histograms of a day, and how far they are from those of the days before."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from models.data.dataset import Dataset
from models.features.training_counts import count_training

BINS = 10
SCORE_EDGES = tuple(np.arange(-8.0, 2.5, 0.5).tolist())
"""Of log-odds, the same for all rankers."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_LENGTH_EDGES = [2.0**n - 0.5 for n in range(10)]
"""Of lengths of histories, 0, 1, 2-3, 4-7, ... as manifests count them; none is longer than 1000."""
_CATEGORIES = 50
_OTHER, _MISSING = "(other)", "(missing)"


class Histogram(pydantic.BaseModel):
    """Counts of a number by bin, or of a text by value.

    Attributes:
        edges: the ends of bins between the first, which is open downwards, and the last, open upwards; empty for texts.
        names: texts that have a bin; empty for numbers.
        counts: by bin; the last one is what is missing, of texts the last but one is all others.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    edges: list[float] = []
    names: list[str] = []
    counts: list[int]

    @classmethod
    def of_numbers(cls, values: np.ndarray, edges: Sequence[float] | None = None) -> "Histogram":
        """Counts numbers; NaN is missing.

        Args:
            values: float `(n,)`.
            edges: of the bins; `None` for the deciles of the values.
        """
        known = values[np.isfinite(values)]
        if edges is None:
            inner = np.quantile(known, np.arange(1, BINS) / BINS) if len(known) else np.zeros(0)
            edges = np.unique(inner).tolist()
        counts = np.bincount(np.searchsorted(np.asarray(edges), known, side="right"), minlength=len(edges) + 1)
        return cls(edges=list(edges), counts=[*counts.tolist(), len(values) - len(known)])

    @classmethod
    def of_texts(cls, values: pa.ChunkedArray, names: Sequence[str] | None = None) -> "Histogram":
        """Counts texts; null and the empty one are missing.

        Args:
            values: strings `(n,)`.
            names: what has a bin of its own; `None` for the most frequent ones.
        """
        counted = {each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()}
        missing = counted.pop(None, 0) + counted.pop("", 0)
        if names is None:
            names = sorted(sorted(counted, key=lambda name: (-counted[name], name))[:_CATEGORIES])
        own = [counted.pop(name, 0) for name in names]
        return cls(names=list(names), counts=[*own, sum(counted.values()), missing])

    def is_like(self, other: "Histogram") -> bool:
        """Whether both have the same bins."""
        return self.edges == other.edges and self.names == other.names and len(self.counts) == len(other.counts)


def stability_index(expected: Sequence[int], found: Sequence[int]) -> float:
    """Population stability index: the sum over bins of (q - p) ln(q / p), p and q their shares before and now.

    Half a count is added to each bin, so that an empty one has no infinite part. By custom, below 0.1 is no change
    and above 0.25 a large one.

    Args:
        expected, found: counts by bin.
    """
    p, q = (np.asarray(counts, np.float64) + 0.5 for counts in (expected, found))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def day_inputs(
    dataset: Dataset, split: str, item_ids: pa.ChunkedArray, like: Mapping[str, Histogram]
) -> dict[str, Histogram]:
    """What rankers read on the pages of a day.

    Args:
        dataset: the dataset.
        split: which pages.
        item_ids: of all candidates on them.
        like: the histograms of an earlier day, whose bins are taken.

    Returns:
        By input: the numbers and texts of the items that were shown, counted as often as they were; what page records
        say of candidates; and the lengths of histories.
    """
    items = dataset.items()
    rows = pc.index_in(item_ids, items["item_id"].combine_chunks())
    found: dict[str, Histogram] = {}
    for name in items.column_names:
        before = like.get(f"item.{name}")
        if name == "category" or name.startswith("cat_"):
            found[f"item.{name}"] = Histogram.of_texts(items[name].take(rows), before.names if before else None)
        elif name.startswith("stat_"):
            values = items[name].take(rows).to_numpy().astype(np.float64)
            found[f"item.{name}"] = Histogram.of_numbers(values, before.edges if before else None)
    counts, _ = count_training(dataset.pages(split))
    for name, numbers in counts.numbers.items():
        before = like.get(f"candidate.{name}")
        found[f"candidate.{name}"] = Histogram.of_numbers(numbers, before.edges if before else None)
    for name, lengths in dataset.manifest.splits[split].history_lengths.items():
        found[f"history.{name}"] = Histogram(
            edges=_LENGTH_EDGES, counts=[*lengths, *[0] * (len(_LENGTH_EDGES) + 2 - len(lengths))]
        )
    return found


def day_scores(ctr: np.ndarray) -> dict[str, Any]:
    """What a ranker says on the pages of a day.

    Args:
        ctr: click probabilities `(n,)`.

    Returns:
        `mean`; `quantiles`, by `QUANTILES`; `histogram` of the log-odds.
    """
    p = np.clip(ctr.astype(np.float64), 1e-9, 1 - 1e-9)
    return {
        "mean": float(p.mean()),
        "quantiles": np.quantile(p, QUANTILES).tolist(),
        "histogram": Histogram.of_numbers(np.log(p / (1 - p)), SCORE_EDGES).model_dump(),
    }


def drift_of(found: Mapping[str, Histogram], before: Sequence[Mapping[str, Histogram]]) -> dict[str, float]:
    """Compares histograms with the sums of those of days before; an input that no day before has is left out.

    Args:
        found: of a day, by name.
        before: of the days before.
    """
    drift = {}
    for name, histogram in found.items():
        alike = [day[name].counts for day in before if name in day and day[name].is_like(histogram)]
        if alike:
            drift[name] = stability_index(np.sum(alike, axis=0).tolist(), histogram.counts)
    return drift
