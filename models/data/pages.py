"""Page records as batches of dense, padded tensors: the same parsing in training, evaluation and serving."""

from collections.abc import Collection

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from beam_pipelines.format.manifest import Window
from beam_pipelines.format.records import FEATURES, HISTORIES
from models.config import Config
from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead

PADDING = -1
"""Fills item rows (and every other int64 feature) beyond a page's candidates or a history's steps."""

GROUPS = ("candidates", *HISTORIES)
"""Groups of features that have a length."""

_PARSE_TOGETHER = 1024
_TYPES = {"bytes": tf.string, "int64": tf.int64, "float": tf.float32}


class PageLengths(Config):
    """How many candidates and history steps a batch holds per page; longer ones are cut at the end (the oldest)."""

    candidates: int
    click: int
    pay: int
    cart: int


def parse_pages(
    serialized: tf.Tensor, lengths: PageLengths, *, to_longest: Collection[str] = ()
) -> dict[str, tf.Tensor]:
    """Parses serialized page records.

    Args:
        serialized: string, shape `(batch,)`.
        lengths: sizes of the result.
        to_longest: groups whose features are only as long as the longest of the batch.

    Returns:
        Feature name to tensor: context features `(batch,)`, the others `(batch, length)` with `length` taken from
        `lengths` by the feature's group; int64 features are padded with -1, floats with 0.
    """
    spec = {
        f.name: tf.io.FixedLenFeature([], _TYPES[f.kind])
        if f.group == "context"
        else tf.io.RaggedFeature(_TYPES[f.kind], row_splits_dtype=tf.int64)
        for f in FEATURES
    }
    parsed = tf.io.parse_example(serialized, spec)
    batch = {}
    for name, _, group, _ in FEATURES:
        if group == "context":
            batch[name] = parsed[name]
            continue
        padding = 0.0 if parsed[name].dtype == tf.float32 else PADDING
        length = getattr(lengths, group)
        if group in to_longest:
            batch[name] = parsed[name][:, :length].to_tensor(padding)
        else:
            batch[name] = parsed[name].to_tensor(padding, shape=(None, length))
    return batch


def page_records(dataset: Dataset, split: str, *, window: Window | None = None) -> tf.data.Dataset:
    """Serialized pages, one pass over a split in the order of its files.

    Args:
        dataset: the page dataset.
        split: `pretrain`, `train` or `test`, or `dataset.PRETRAINING`.
        window: keeps the pages whose timestamp lies in it; `None` keeps all.
    """
    records = tf.data.TFRecordDataset(dataset.shard_paths(split))
    return records if window is None else pages_inside(records, window)


def pages_inside(records: tf.data.Dataset, window: Window) -> tf.data.Dataset:
    """The serialized pages whose timestamp lies in a window."""

    def inside(serialized: tf.Tensor) -> tf.Tensor:
        timestamps = _timestamps(serialized)
        return tf.boolean_mask(serialized, (timestamps >= window.first) & (timestamps <= window.last))

    return records.batch(_PARSE_TOGETHER).map(inside, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def page_batches(
    dataset: Dataset,
    split: str,
    lengths: PageLengths,
    *,
    batch_size: int,
    window: Window | None = None,
    to_longest: Collection[str] = (),
) -> tf.data.Dataset:
    """Batches of parsed pages (see `parse_pages`), one pass over a split.

    Args:
        dataset, split, window: which pages, see `page_records`.
        lengths, to_longest: sizes of the batches, see `parse_pages`.
        batch_size: pages per batch.
    """
    records = page_records(dataset, split, window=window).batch(batch_size)
    return map_ahead(records, lambda serialized: parse_pages(serialized, lengths, to_longest=to_longest))


def page_timestamps(dataset: Dataset, split: str) -> np.ndarray:
    """Timestamps of the pages of a split in the order of the files: int64, epoch milliseconds."""
    records = page_records(dataset, split).batch(_PARSE_TOGETHER)
    return np.concatenate(list(map_ahead(records, _timestamps).as_numpy_iterator()))


def items_on_pages(dataset: Dataset, split: str) -> np.ndarray:
    """Which items occur on the pages of a split, as a candidate or a history step: bool `(items,)`.

    Nothing else of the pages is parsed, and nothing is padded.

    Raises:
        CommandError: the split has no pages.
    """
    spec = {name: tf.io.RaggedFeature(tf.int64) for name in ("item", *(f"{history}_item" for history in HISTORIES))}

    def items(serialized: tf.Tensor) -> tf.Tensor:
        return tf.concat([feature.flat_values for feature in tf.io.parse_example(serialized, spec).values()], 0)

    found = np.zeros(dataset.manifest.items.file.records, bool)
    with tqdm(total=dataset.split(split).pages, desc="reading pages", unit="page") as progress:
        batches = page_records(dataset, split).batch(_PARSE_TOGETHER)
        counted = map_ahead(batches, lambda records: (tf.size(records), items(records)))
        for pages, rows in counted.as_numpy_iterator():
            found[rows] = True
            progress.update(int(pages))
    return found


def _timestamps(serialized: tf.Tensor) -> tf.Tensor:
    return tf.io.parse_example(serialized, {"timestamp": tf.io.FixedLenFeature([], tf.int64)})["timestamp"]
