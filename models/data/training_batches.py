"""Training pages as batches whose order depends on the seed and the step alone, so that a run can go on anywhere."""

import functools
import math

import numpy as np
import tensorflow as tf

from beam_pipelines.format.manifest import Window
from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead
from models.data.pages import GROUPS, PageLengths, pages_inside, parse_pages

_SHUFFLE_BUFFER = 20_000
_FILES_TOGETHER = 64


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
        # Not mapped over epochs: the seed would be a tensor, which TensorFlow compares with 0 in Python. A run that
        # goes on behind the last step gets one more.
        epochs = [self._epoch(number) for number in range(epoch, max(self._epochs, epoch + 1))]
        batches = functools.reduce(tf.data.Dataset.concatenate, epochs).skip(done)
        if replicas > 1:
            own = tf.data.Dataset.range(first, first + here)
            batches = batches.flat_map(lambda records: own.map(lambda replica: records[replica::replicas]))
        return map_ahead(batches, self._parse)

    def _epoch(self, epoch: int) -> tf.data.Dataset:
        """The serialized records of an epoch's batches."""
        seed = np.random.SeedSequence([self._seed, epoch]).generate_state(1)[0].item()
        files = tf.data.Dataset.from_tensor_slices(self._paths).shuffle(len(self._paths), seed=seed)
        records = files.interleave(tf.data.TFRecordDataset, cycle_length=_FILES_TOGETHER)
        return pages_inside(records, self._window).shuffle(self._buffer, seed=seed).batch(self._batch_size)

    def _parse(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        return parse_pages(serialized, self._lengths, to_longest=GROUPS)
