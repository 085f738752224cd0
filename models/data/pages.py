"""Page records as batches of dense, padded tensors: the same parsing in training, evaluation and serving."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Window
from beam_pipelines.format.records import FEATURES, HISTORIES
from beam_pipelines.shell.progress import progress_bar
from models.config import Config
from models.data.map_ahead import map_ahead

if TYPE_CHECKING:
    from models.data.dataset import Dataset

PADDING = -1
"""Fills item rows (and every other int64 feature) beyond a page's candidates or a history's steps."""

GROUPS = ("candidates", *HISTORIES)
"""Groups of features that have a length."""

LABELS = ("clicked", "converted", "dwell")
"""What becomes known of a candidate only after the page was shown."""

_PARSE_TOGETHER = 1024
_SHUFFLE_BUFFER = 20_000
_FILES_TOGETHER = 64
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

    Raises:
        tf.errors.InvalidArgumentError: no page records, or features of one of `to_longest` that differ in length.
    """
    spec = {
        f.name: tf.io.FixedLenFeature([], _TYPES[f.kind])
        if f.group == "context"
        else tf.io.RaggedFeature(_TYPES[f.kind], row_splits_dtype=tf.int64)
        for f in FEATURES
    }
    parsed = tf.io.parse_example(serialized, spec)
    shapes: dict[str, Any] = {group: (None, getattr(lengths, group)) for group in GROUPS}
    for group in to_longest:
        members = {f.name: parsed[f.name] for f in FEATURES if f.group == group}
        first = next(iter(members.values()))
        same = tf.reduce_all(tf.stack([values.row_splits for values in members.values()]) == first.row_splits)
        tf.debugging.Assert(same, [f"a page must have as many of each of {', '.join(members)}"])
        longest = tf.minimum(first.bounding_shape(axis=1), getattr(lengths, group))
        shapes[group] = tf.stack([tf.constant(-1, tf.int64), longest])
    batch = {}
    for name, _, group, _ in FEATURES:
        values = parsed[name]
        if group == "context":
            batch[name] = values
        else:
            batch[name] = values.to_tensor(0.0 if values.dtype == tf.float32 else PADDING, shape=shapes[group])
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
        ArtifactError: the split has no pages.
    """
    spec = {name: tf.io.RaggedFeature(tf.int64) for name in ("item", *(f"{history}_item" for history in HISTORIES))}

    def items(serialized: tf.Tensor) -> tf.Tensor:
        return tf.concat([feature.flat_values for feature in tf.io.parse_example(serialized, spec).values()], 0)

    found = np.zeros(dataset.manifest.items.file.records, bool)
    with progress_bar(total=dataset.split(split).pages, desc="reading pages", unit="page") as progress:
        batches = page_records(dataset, split).batch(_PARSE_TOGETHER)
        counted = map_ahead(batches, lambda records: (tf.size(records), items(records)))
        for pages, rows in counted.as_numpy_iterator():
            found[rows] = True
            progress.update(int(pages))
    return found


def split_by_share(timestamps: np.ndarray, window: Window, share: float) -> tuple[Window, Window, int]:
    """Divides pages into earlier ones to learn on and later ones that validate; equal timestamps stay together.

    Args:
        timestamps: of the pages, epoch milliseconds, in any order.
        window: of all of them.
        share: of the pages that should validate.

    Returns:
        The window to learn on, the later window, and the number of pages in the first.
    """
    timestamps = np.sort(timestamps)
    wanted = len(timestamps) - round(len(timestamps) * share)
    cut = int(timestamps[max(wanted, 1) - 1])
    pages = int((timestamps <= cut).sum())
    return Window(first=window.first, last=cut), Window(first=cut + 1, last=window.last), pages


class Pages:
    """The pages of a split, or of a stretch of time of one, in the order of the dataset's files.

    Args:
        dataset: the page dataset.
        split_name: `pretrain`, `train` or `test`.
        window: first and last moment of the pages, both inclusive; `None` for the whole split.

    Attributes:
        dataset, split_name: as given.
        window: of the pages.
        negative_rate: share of the unclicked candidates that is left on them.

    Raises:
        ArtifactError: the split has no pages.
        InputError: no page lies in the window.

    Example:
        >>> train, later = Dataset("artifacts/dataset").pages("train").split(0.9)
        >>> ranker.fit(train.batches(64, shuffle=True), validation_data=later.batches(128))
    """

    def __init__(self, dataset: Dataset, split_name: str, window: Window | None = None) -> None:
        split = dataset.split(split_name)
        self.dataset = dataset
        self.split_name = split_name
        self.window = split.window if window is None else window
        self.negative_rate = split.negative_rate
        self._whole = window is None
        if not len(self):
            raise InputError(f"`window` must hold a page of the split `{split_name}`. Received: {window}")

    def __len__(self) -> int:
        """The number of pages; those of damaged shards that the dataset tolerates do not count."""
        self.dataset.shard_paths(self.split_name)
        if self._whole and not self.dataset.bad_shards:
            return self.dataset.split(self.split_name).pages
        return len(self.timestamps)

    def __repr__(self) -> str:
        return f"Pages({len(self)} of {self.split_name!r} of {str(self.dataset.path)!r})"

    @functools.cached_property
    def timestamps(self) -> np.ndarray:
        """When each page was shown, in the order of the files: int64 `(pages,)`, epoch milliseconds."""
        timestamps = page_timestamps(self.dataset, self.split_name)
        return timestamps[(timestamps >= self.window.first) & (timestamps <= self.window.last)]

    def split(self, share: float) -> tuple[Pages, Pages]:
        """Divides by time: about `share` of the pages, the earlier ones, and the later ones.

        Pages of one moment stay together.

        Raises:
            InputError: one of the two would be empty.
        """
        if not 0 < share < 1:
            raise InputError(f"`share` must be above 0 and below 1. Received: {share}")
        earlier, later, _ = split_by_share(self.timestamps, self.window, round(1 - share, 12))
        if later.first > self.timestamps.max():
            raise InputError(f"`share` must leave some of the {len(self)} pages for later. Received: {share}")
        return Pages(self.dataset, self.split_name, earlier), Pages(self.dataset, self.split_name, later)

    def records(self) -> tf.data.Dataset:
        """The serialized pages, strings."""
        return page_records(self.dataset, self.split_name, window=None if self._whole else self.window)

    def lengths(self) -> PageLengths:
        """Lengths at which nothing of a page is cut off."""
        return PageLengths(candidates=self.dataset.manifest.max_candidates, **HISTORIES)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        labels: Sequence[str] = ("clicked",),
        lengths: PageLengths | None = None,
    ) -> tf.data.Dataset:
        """Batches for `fit`, `evaluate` and `predict`: one pass over the pages.

        Args:
            batch_size: pages per batch, over all replicas. The last batch may be smaller.
            shuffle: whether each pass, an epoch of `fit`, has an order of its own. Keep it off where the order of the
                predictions matters.
            seed: of the order.
            labels: what to learn, of `clicked`, `converted` and `dwell`.
            lengths: candidates and newest history steps of a page at most; `None` for all. Batches are padded to their
                longest page.

        Returns:
            Elements `(page, labels, mask)`. `page`: the features of `parse_pages` that are known before the page is
            shown. `labels`: float32 `(batch, candidates)`, 0 at padding; a dictionary by name if `labels` names
            several. `mask`: float32 `(batch, candidates)`, 1 at candidates and 0 at padding; Keras takes it as sample
            weights.
        """
        if unknown := [name for name in labels if name not in LABELS] or not labels:
            raise InputError(f"`labels` must be of {', '.join(LABELS)}. Received: {unknown or labels}")
        lengths = self.lengths() if lengths is None else lengths
        if shuffle:
            order = TrainingBatches(
                self.dataset,
                self.split_name,
                window=self.window,
                pages=len(self),
                lengths=lengths,
                batch_size=batch_size,
                epochs=1,
                seed=seed,
            )
            pages = order.epoch_after_epoch()
        else:
            pages = map_ahead(
                self.records().batch(batch_size), lambda records: parse_pages(records, lengths, to_longest=GROUPS)
            )
        steps = math.ceil(len(self) / batch_size)
        return pages.map(lambda page: with_labels(page, labels)).apply(tf.data.experimental.assert_cardinality(steps))


class TrainingBatches:
    """The pages of a window of a split, shuffled anew for every epoch.

    A shard has all pages of its users, in an order that mixes these users and times. Many shards are read at a time, so
    that every stretch of an epoch has pages of many users, and the shuffle buffer only has to vary the batches.

    Args:
        dataset: the page dataset.
        split: `train`, for example.
        window: of the pages.
        pages: number of pages in it.
        lengths: candidates and newest history steps of a page at most; pages are padded to the longest of a batch.
        batch_size: pages per step, over all replicas. The last batch of an epoch may be smaller.
        epochs: how many there are.
        seed: of the order.

    Attributes:
        steps_per_epoch: number of batches of an epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        window: Window,
        pages: int,
        lengths: PageLengths,
        batch_size: int,
        epochs: int,
        seed: int,
    ) -> None:
        self._paths = dataset.shard_paths(split)
        self._window = window
        self._lengths = lengths
        self._batch_size = batch_size
        self._buffer = min(pages, _SHUFFLE_BUFFER)
        self._epochs = epochs
        self._seed = seed
        self.steps_per_epoch = math.ceil(pages / batch_size)

    def from_step(self, step: int, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Batches from a step of the whole training on, at least to its end.

        Args:
            step: number of batches that are left out, from the beginning of the first epoch.
            context: of a `tf.distribute` strategy: the result holds this worker's share of every batch, an element for
                each of its replicas in turn.

        Returns:
            Pages of `parse_pages`.
        """
        context = context or tf.distribute.InputContext()
        replicas = context.num_replicas_in_sync
        here = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * here
        epoch, done = divmod(step, self.steps_per_epoch)
        # A run that goes on behind the last step gets one more epoch.
        numbers = range(epoch, max(self._epochs, epoch + 1))
        epochs = [self._epoch(self._epoch_seed(number)) for number in numbers]
        batches = functools.reduce(tf.data.Dataset.concatenate, epochs).skip(done)
        if replicas > 1:
            own = tf.data.Dataset.range(first, first + here)
            batches = batches.flat_map(lambda records: own.map(lambda replica: records[replica::replicas]))
        return map_ahead(batches, self._parse)

    def epoch_after_epoch(self) -> tf.data.Dataset:
        """One epoch: the first one when it is read for the first time, the second one the next time, and so on."""
        epochs = itertools.count()

        def next_seed(_: Any) -> tf.Tensor:
            seed = tf.numpy_function(lambda: self._epoch_seed(next(epochs)), [], tf.int64)
            return tf.ensure_shape(seed, ())

        records = tf.data.Dataset.range(1).map(next_seed).flat_map(self._epoch)
        return map_ahead(records, self._parse)

    def _epoch_seed(self, epoch: int) -> np.int64:
        seed = np.random.SeedSequence([self._seed, epoch]).generate_state(1)[0]
        return np.int64(seed % np.iinfo(np.int32).max)  # as `tf.data.Dataset.shuffle` does with Python's numbers

    def _epoch(self, epoch_seed: tf.Tensor | np.int64) -> tf.data.Dataset:
        """The serialized records of an epoch's batches."""
        seeds = tf.constant(self._seed, tf.int64), tf.convert_to_tensor(epoch_seed, tf.int64)
        files = _shuffled(tf.data.Dataset.from_tensor_slices(self._paths), len(self._paths), seeds)
        records = files.interleave(tf.data.TFRecordDataset, cycle_length=_FILES_TOGETHER)
        return _shuffled(pages_inside(records, self._window), self._buffer, seeds).batch(self._batch_size)

    def _parse(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        return parse_pages(serialized, self._lengths, to_longest=GROUPS)


def _shuffled(elements: tf.data.Dataset, buffer_size: int, seeds: tuple[tf.Tensor, tf.Tensor]) -> tf.data.Dataset:
    """`tf.data.Dataset.shuffle` with two seeds that may be tensors, where it takes Python numbers alone."""
    variant = tf.raw_ops.ShuffleDatasetV3(
        input_dataset=tf.data.experimental.to_variant(elements),
        buffer_size=tf.cast(buffer_size, tf.int64),
        seed=seeds[0],
        seed2=seeds[1],
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        output_types=[elements.element_spec.dtype],
        output_shapes=[elements.element_spec.shape],
        reshuffle_each_iteration=True,
    )
    return tf.data.experimental.from_variant(variant, elements.element_spec)


def with_labels(
    page: dict[str, tf.Tensor], names: Sequence[str] = LABELS
) -> tuple[dict[str, tf.Tensor], Any, tf.Tensor]:
    """Takes parsed pages apart into what a model may read, what it shall predict, and which candidates there are.

    Returns:
        `(page, labels, mask)` as `Pages.batches` has them.
    """
    mask = tf.cast(page["item"] != PADDING, tf.float32)
    labels = {name: tf.cast(page[name], tf.float32) * mask for name in names}
    inputs = {name: values for name, values in page.items() if name not in LABELS}
    return inputs, labels if len(names) > 1 else labels[names[0]], mask


def _timestamps(serialized: tf.Tensor) -> tf.Tensor:
    return tf.io.parse_example(serialized, {"timestamp": tf.io.FixedLenFeature([], tf.int64)})["timestamp"]
