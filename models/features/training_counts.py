"""What occurs on the train pages, counted in one pass."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.records import HISTORIES
from beam_pipelines.shell.progress import progress_bar
from models.data.map_ahead import map_ahead
from models.data.pages import PADDING, Pages, page_records
from models.features.number_scale import LARGEST, LARGEST_COUNT
from models.features.spec import STATISTICS

_PARSE_TOGETHER = 1024
_NUMBERS_KEPT = 1_000_000
_ROWS = ("item", *(f"{name}_item" for name in HISTORIES))


class TrainingCounts(NamedTuple):
    """Occurrences on the pages of a window.

    Attributes:
        items: int64 by item row, as candidates and history steps.
        users: int64 by user row, as pages.
        numbers: for each number of `STATISTICS` its values for the first million candidates, float64; NaN for those
            that are missing.
    """

    items: np.ndarray
    users: np.ndarray
    numbers: dict[str, np.ndarray]


def count_training(pages: Pages) -> tuple[TrainingCounts, np.ndarray]:
    """Counts what occurs on pages, and how often items do on all pages of their split.

    Histories are counted whole, and nothing is padded.

    Args:
        pages: those that train.

    Returns:
        The counts of the pages, and int64 `(items,)` of all pages of the split, in the same pass.
    """
    dataset, window = pages.dataset, pages.window
    spec = {name: tf.io.RaggedFeature(tf.int64) for name in _ROWS}
    spec |= {name: tf.io.RaggedFeature(tf.float32 if name.startswith("ctr_") else tf.int64) for name in STATISTICS}
    spec |= {name: tf.io.FixedLenFeature([], tf.int64) for name in ("user", "timestamp")}

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, spec)
        flat = {name: parsed[name].flat_values for name in (*_ROWS, *STATISTICS)}
        lengths = {f"length_of_{name}": parsed[name].row_lengths() for name in _ROWS}
        return flat | lengths | {name: parsed[name] for name in ("user", "timestamp")}

    items, users = dataset.manifest.items.file.records, dataset.manifest.users.file.records
    counts = TrainingCounts(np.zeros(items, np.int64), np.zeros(users, np.int64), {})
    everywhere = np.zeros(items, np.int64)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in STATISTICS}
    number_count = 0
    total = dataset.split(pages.split_name).pages
    with progress_bar(total=total, desc="counting", unit="page") as progress:
        batches = map_ahead(page_records(dataset, pages.split_name).batch(_PARSE_TOGETHER), parse)
        for page in batches.as_numpy_iterator():
            counted = (page["timestamp"] >= window.first) & (page["timestamp"] <= window.last)
            counts.users[:] += np.bincount(page["user"][counted], minlength=users)
            inside = {name: np.repeat(counted, page[f"length_of_{name}"]) for name in _ROWS}
            for name in _ROWS:
                everywhere += np.bincount(page[name], minlength=items)
                counts.items[:] += np.bincount(page[name][inside[name]], minlength=items)
            if number_count < _NUMBERS_KEPT:
                candidates = inside["item"]
                number_count += int(candidates.sum())
                for name in STATISTICS:
                    kept[name].append(_known(page[name][candidates]))
            progress.update(len(counted))
    counts.numbers.update({name: np.concatenate(values)[:_NUMBERS_KEPT] for name, values in kept.items()})
    return counts, everywhere


def _known(values: np.ndarray) -> np.ndarray:
    """Values of candidates as float64, NaN for what stands for a missing one."""
    largest = LARGEST_COUNT if values.dtype.kind == "i" else LARGEST
    numbers = values.astype(np.float64)
    return np.where((values != PADDING) & (np.abs(numbers) < largest), numbers, np.nan)
