import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.manifest import Window
from beam_pipelines.format.records import FEATURES, HISTORIES, encode_page
from beam_pipelines.shell.command import CommandError
from models.data.dataset import Dataset
from models.data.pages import GROUPS, PageLengths, page_batches, page_records, page_timestamps, parse_pages
from tests.models.tiny_dataset import write_tiny_dataset
from tests.page_features import no_statistics

LENGTHS = PageLengths(candidates=6, click=5, pay=2, cart=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), pages=60).data)


def example(candidates=2, steps=3):
    page = {
        "page_id": ["p é".encode()],
        "user": np.array([7]),
        "timestamp": np.array([1_700_000_000_000]),
        "query": [b""],
        "item": np.arange(candidates) + 10,
        "position": np.arange(candidates),
        "clicked": np.arange(candidates) % 2,
        "converted": np.zeros(candidates, np.int64),
        "dwell": np.full(candidates, 1.5, np.float32),
        **no_statistics(candidates),
    }
    for history in ("click", "pay", "cart"):
        page |= {f"{history}_item": np.arange(steps) + 20, f"{history}_time": np.arange(steps)[::-1] + 5}
    return page


def test_pages_are_padded_and_cut_at_the_oldest_step():
    serialized = tf.constant([encode_page(example()), encode_page(example(candidates=0, steps=0))])
    page = parse_pages(serialized, PageLengths(candidates=3, click=2, pay=4, cart=0))
    np.testing.assert_array_equal(page["item"], [[10, 11, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(page["dwell"], [[1.5, 1.5, 0], [0, 0, 0]])
    np.testing.assert_array_equal(page["click_item"], [[20, 21], [-1, -1]])
    np.testing.assert_array_equal(page["pay_time"], [[7, 6, 5, -1], [-1] * 4])
    assert page["cart_item"].shape == (2, 0)
    assert page["page_id"][0].numpy().decode() == "p é"
    assert page.keys() == {f.name for f in FEATURES}


def ids(pages):
    return [i.decode() for page in pages.as_numpy_iterator() for i in page["page_id"]]


def test_a_pass_holds_every_page_once(dataset):
    pages = page_batches(dataset, "train", LENGTHS, batch_size=16)
    assert sorted(ids(pages)) == sorted(f"train-{n}" for n in range(60))
    assert [len(page["user"]) for page in pages] == [16, 16, 16, 12]


def test_groups_may_be_as_long_as_the_longest_of_the_batch():
    pages = [encode_page(example(steps=steps)) for steps in (3, 0, 1)]
    page = parse_pages(tf.constant(pages), LENGTHS, to_longest=HISTORIES)
    np.testing.assert_array_equal(page["click_item"], [[20, 21, 22], [-1, -1, -1], [20, -1, -1]])
    assert page["pay_item"].shape == (3, 2)  # cut
    assert page["item"].shape == (3, 6)  # candidates are padded as ever
    assert parse_pages(tf.constant(pages), LENGTHS, to_longest=GROUPS)["item"].shape == (3, 2)


def test_a_window_keeps_its_pages_bounds_included(dataset):
    timestamps = page_timestamps(dataset, "train")
    assert len(timestamps) == 60
    first, last = np.sort(timestamps)[[10, 29]]
    window = Window(first=int(first), last=int(last))
    pages = page_batches(dataset, "train", LENGTHS, batch_size=7, window=window)
    kept = [time for page in pages for time in page["timestamp"].numpy()]
    np.testing.assert_array_equal(np.sort(kept), np.sort(timestamps)[10:30])


def test_records_are_what_batches_parse(dataset):
    records = list(page_records(dataset, "test").as_numpy_iterator())
    parsed = parse_pages(tf.constant(records), LENGTHS)
    batch = next(iter(page_batches(dataset, "test", LENGTHS, batch_size=len(records))))
    for name, values in batch.items():
        np.testing.assert_array_equal(values, parsed[name])


def test_a_damaged_shard_and_a_missing_split_are_named(tmp_path):
    tiny = write_tiny_dataset(tmp_path, pages=12)
    dataset = Dataset(tiny.data)
    with pytest.raises(CommandError, match="no pages in split `later`"):
        page_batches(dataset, "later", LENGTHS, batch_size=4)
    shard = dataset.manifest.splits["train"].shards[1].path
    with open(tiny.data / shard, "ab") as file:
        file.write(b"x")
    with pytest.raises(CommandError, match=r"train-00001-of-00002.tfrecord is not the file"):
        page_batches(dataset, "train", LENGTHS, batch_size=4)
