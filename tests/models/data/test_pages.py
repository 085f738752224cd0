import keras
import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Window
from beam_pipelines.format.records import FEATURES, HISTORIES, encode_page
from models.data.dataset import Dataset
from models.data.pages import (
    GROUPS,
    PageLengths,
    Pages,
    TrainingBatches,
    page_batches,
    page_records,
    page_timestamps,
    parse_pages,
)
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


@pytest.mark.parametrize("feature", ["click_time", "pay_item", "cart_time", "clicked", "ctr_7d"])
def test_features_of_a_group_are_equally_long(feature):
    page = tf.train.Example.FromString(encode_page(example()))
    values = page.features.feature[feature]
    del getattr(values, values.WhichOneof("kind")).value[-1]
    serialized = tf.constant([encode_page(example()), page.SerializeToString()])

    def parse(records):
        return parse_pages(records, LENGTHS, to_longest=GROUPS)

    with pytest.raises(tf.errors.InvalidArgumentError, match=f"as many of each of .*{feature}"):
        parse(serialized)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"as many of each of .*{feature}"):
        next(iter(tf.data.Dataset.from_tensors(serialized).map(parse)))


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
    with pytest.raises(InputError, match="no pages in split `later`"):
        page_batches(dataset, "later", LENGTHS, batch_size=4)
    shard = dataset.manifest.splits["train"].shards[1].path
    with open(tiny.data / shard, "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"train-00001-of-00002.tfrecord is not the file"):
        page_batches(dataset, "train", LENGTHS, batch_size=4)


def page_ids(batches):
    return [page_id.decode() for page, *_ in batches.as_numpy_iterator() for page_id in page["page_id"]]


def test_pages_are_divided_by_time_and_nothing_is_lost(dataset):
    pages = dataset.pages("train")
    earlier, later = pages.split(0.8)
    assert len(pages) == dataset.split("train").pages == len(earlier) + len(later)
    assert len(later) == pytest.approx(0.2 * len(pages), abs=1)
    assert earlier.timestamps.max() < later.timestamps.min()
    assert sorted(page_ids(earlier.batches(7)) + page_ids(later.batches(7))) == sorted(page_ids(pages.batches(16)))
    assert (earlier.negative_rate, earlier.split_name) == (1.0, "train")


def test_pages_of_one_moment_stay_together(dataset):
    pages = dataset.pages("train")
    moments = np.sort(pages.timestamps)
    twice = Window(first=int(moments[0]), last=int(moments[1]))
    with pytest.raises(InputError, match=r"`share` must leave some of the 1 pages for later. Received: 0.5"):
        Pages(dataset, "train", Window(first=twice.first, last=twice.first)).split(0.5)
    assert [len(half) for half in Pages(dataset, "train", twice).split(0.5)] == [1, 1]
    for share in (0, 1, -1, 1.5):
        with pytest.raises(InputError, match="`share` must be above 0 and below 1"):
            pages.split(share)
    with pytest.raises(InputError, match="`window` must hold a page"):
        Pages(dataset, "train", Window(first=0, last=1))


def test_batches_hold_what_is_known_before_the_labels_and_the_mask(dataset):
    batches = dataset.pages("train").batches(16)
    assert batches.cardinality().numpy() == len(list(batches)) == -(-dataset.split("train").pages // 16)
    whole = page_batches(dataset, "train", LENGTHS, batch_size=16, to_longest=GROUPS)
    for (page, clicked, mask), parsed in zip(batches.as_numpy_iterator(), whole.as_numpy_iterator(), strict=True):
        assert page.keys() == {f.name for f in FEATURES if not f.is_label}
        np.testing.assert_array_equal(page["page_id"], parsed["page_id"])
        np.testing.assert_array_equal(mask, parsed["item"] != -1)
        np.testing.assert_array_equal(clicked, parsed["clicked"] == 1)
        assert (clicked.dtype, mask.dtype) == (np.float32, np.float32)
    _, labels, _ = next(iter(dataset.pages("train").batches(4, labels=("clicked", "dwell"))))
    assert {name: values.dtype for name, values in labels.items()} == {"clicked": tf.float32, "dwell": tf.float32}
    with pytest.raises(InputError, match=r"`labels` must be of clicked, converted, dwell. Received: \['bought'\]"):
        dataset.pages("train").batches(4, labels=("bought",))


def test_every_pass_over_shuffled_batches_is_the_next_epoch(dataset):
    pages = dataset.pages("train")
    batches = pages.batches(8, shuffle=True, seed=3)
    epochs = [page_ids(batches) for _ in range(3)]
    order = TrainingBatches(
        dataset, "train", window=pages.window, pages=len(pages), lengths=LENGTHS, batch_size=8, epochs=3, seed=3
    )
    in_a_run = [i.decode() for page in order.from_step(0).as_numpy_iterator() for i in page["page_id"]]
    assert [*epochs[0], *epochs[1], *epochs[2]] == in_a_run
    assert sorted(epochs[0]) == sorted(page_ids(pages.batches(8)))
    assert epochs[0] != epochs[1] != epochs[2]
    assert page_ids(pages.batches(8, shuffle=True, seed=3)) == epochs[0]


def test_a_stock_model_trains_on_batches(dataset):
    """No class of ours but the data: a plain Keras model."""

    class Popularity(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = keras.layers.Embedding(dataset.manifest.items.file.records + 1, 1)

        def call(self, page):
            return keras.ops.squeeze(self.embedding(keras.ops.maximum(page["item"], 0)), -1)

    def per_candidate(labels, logits):
        return keras.ops.binary_crossentropy(labels, logits, from_logits=True)

    train, later = dataset.pages("train").split(0.8)
    validation = later.batches(16)
    model = Popularity()
    model.compile("sgd", per_candidate, weighted_metrics=[keras.metrics.AUC(from_logits=True)])
    model.fit(train.batches(16, shuffle=True), epochs=2, verbose=0)
    logits = np.concatenate([np.ravel(model(page)[mask == 1]) for page, _, mask in validation])
    clicked = np.concatenate([np.ravel(labels[mask == 1]) for _, labels, mask in validation])
    loss = np.logaddexp(0, logits) - clicked * logits
    padded = sum(int(tf.size(mask)) for *_, mask in validation)
    # Keras divides by all entries, padding included: a model of ours divides by the candidates.
    assert model.evaluate(validation, verbose=0)[0] == pytest.approx(loss.sum() / padded, rel=0.2)
