from itertools import chain

import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.manifest import Window
from models.data import pages as training_batches
from models.data.dataset import Dataset
from models.data.pages import PageLengths, TrainingBatches, page_timestamps
from tests.models.tiny_dataset import write_tiny_dataset

LENGTHS = PageLengths(candidates=6, click=5, pay=2, cart=0)
STEPS, EPOCHS = 7, 3  # of 50 pages, 8 at a time


@pytest.fixture(scope="module")
def steps(dataset):
    """The pages of every batch of the whole training."""
    return ids(batches(dataset).from_step(0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), pages=60).data)


def batches(dataset, seed=0):
    timestamps = np.sort(page_timestamps(dataset, "train"))
    window = Window(first=int(timestamps[5]), last=int(timestamps[54]))
    options = {"lengths": LENGTHS, "batch_size": 8, "epochs": EPOCHS, "seed": seed}
    return TrainingBatches(dataset, "train", window=window, pages=50, **options)


def ids(pages, steps=STEPS * EPOCHS):
    return [[i.decode() for i in page["page_id"]] for page in pages.take(steps).as_numpy_iterator()]


def test_every_epoch_holds_every_page_of_the_window_once_in_another_order(dataset, steps):
    assert batches(dataset).steps_per_epoch == STEPS
    epochs = [[*chain.from_iterable(steps[n * STEPS : (n + 1) * STEPS])] for n in range(EPOCHS)]
    assert [len(step) for step in steps] == [8, 8, 8, 8, 8, 8, 2] * EPOCHS
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 50
        assert set(epoch) == set(epochs[0])
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS
    assert ids(batches(dataset, seed=1).from_step(0), STEPS) != steps[:STEPS]


def test_a_step_does_not_depend_on_where_a_run_began(dataset, steps):
    for first in (1, STEPS - 1, STEPS, STEPS + 3, STEPS * EPOCHS - 1):
        tf.random.uniform(())  # the global generator has moved on, too
        assert ids(batches(dataset).from_step(first), len(steps) - first) == steps[first:]
    assert ids(batches(dataset).from_step(len(steps)), 1)  # a run that only has to validate


def test_every_batch_mixes_pages_of_all_shards(tmp_path, monkeypatch):
    """A shard holds all pages of its users: one after the other would be user after user."""
    monkeypatch.setattr(training_batches, "_SHUFFLE_BUFFER", 50)  # less than a shard, as with many pages
    dataset = Dataset(write_tiny_dataset(tmp_path, pages=600, shards=20).data)
    window = dataset.split("train").window
    made = TrainingBatches(
        dataset, "train", window=window, pages=600, lengths=LENGTHS, batch_size=150, epochs=1, seed=0
    )
    for batch in ids(made.from_step(0), 4):
        assert len({int(page.removeprefix("train-")) % 20 for page in batch}) > 15


@pytest.mark.parametrize(("workers", "here"), [(1, 2), (2, 1), (2, 2)])
def test_replicas_share_every_batch(dataset, steps, workers, here):
    replicas = workers * here
    shares = [
        ids(batches(dataset).from_step(3, tf.distribute.InputContext(workers, worker, replicas)), 4 * here)
        for worker in range(workers)
    ]
    for n, batch in enumerate(steps[3:7]):
        parts = [shares[worker][n * here + replica] for worker in range(workers) for replica in range(here)]
        assert sorted(chain.from_iterable(parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_histories_are_as_long_as_the_longest_of_the_batch(dataset):
    for page in batches(dataset).from_step(0).take(STEPS).as_numpy_iterator():
        longest = (page["click_item"] != -1).sum(axis=1).max()
        assert page["click_item"].shape == page["click_time"].shape == (len(page["user"]), longest)
