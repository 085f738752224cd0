import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.data.dataset import Dataset
from models.data.pages import page_records
from models.retrieval.interactions import Interactions, Pairs
from tests.models.retrieval.drawn_interactions import draw_interactions
from tests.models.tiny_dataset import write_tiny_dataset


def pairs(*rows, times=None):
    users, items = np.array(rows, np.int32).reshape(-1, 2).T
    return Pairs(users, items, None if times is None else np.array(times, np.int64))


def listed(part):
    return [*zip(part.users.tolist(), part.items.tolist(), strict=True)]


def test_a_pair_is_in_the_first_part_that_has_it_and_counted_where_it_is_left_out():
    interactions = Interactions.of(
        ["a", "b"],
        ["x", "y", "z"],
        pairs((1, 2), (0, 0), (0, 0), times=[5, 3, 2]),
        pairs((0, 0), (0, 1), times=[6, 7]),
        pairs((1, 2), (0, 1), (0, 1), (1, 0), times=[8, 8, 9, 9]),
    )
    assert listed(interactions.train) == [(0, 0), (1, 2)]
    assert interactions.train.times.tolist() == [2, 5]
    assert listed(interactions.validation) == [(0, 1)]
    assert listed(interactions.test) == [(1, 0)]
    assert interactions.counts == {
        "rows": 9,
        "train_repeated": 1,
        "train_in_an_earlier_part": 0,
        "validation_repeated": 0,
        "validation_in_an_earlier_part": 1,
        "test_repeated": 1,
        "test_in_an_earlier_part": 2,
    }
    kept = sum(len(part) for part in (interactions.train, interactions.validation, interactions.test))
    assert kept + sum(interactions.counts.values()) - 9 == 9


def test_the_digest_is_that_of_ids_and_parts():
    one, other = draw_interactions(), draw_interactions()
    assert one.digest() == other.digest()
    renamed = Interactions(["v", *one.user_ids[1:]], one.item_ids, one.train, one.validation, one.test)
    shorter = Interactions(one.user_ids, one.item_ids, one.train, one.validation, one.test.take(slice(1, None)))
    assert len({one.digest(), renamed.digest(), shorter.digest()}) == 3


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(InputError, match="no interactions to learn from"):
        Interactions.of(["a"], ["x"], pairs(), pairs((0, 0)), pairs())


def test_clicks_of_pages_by_time(tmp_path):
    dataset = Dataset(write_tiny_dataset(tmp_path, items=30, pages=60).data)
    interactions = Interactions.from_pages(dataset, validation_share=0.25)
    assert interactions.user_ids[3] == "user00003"
    assert interactions.item_ids[3] == "item00003"

    # Page by page, without our parser.
    clicks = {"train": {}, "test": {}}
    moments = []
    for split, first in clicks.items():
        for record in page_records(dataset, split).as_numpy_iterator():
            page = features_of(record)
            moments += page["timestamp"] if split == "train" else []
            for item, clicked in zip(page["item"], page["clicked"], strict=True):
                if clicked:
                    pair = (page["user"][0], item)
                    first[pair] = min(first.get(pair, page["timestamp"][0]), page["timestamp"][0])
    last = sorted(moments)[round(len(moments) * 0.75) - 1]
    train = {pair: time for pair, time in clicks["train"].items() if time <= last}
    assert dict(zip(listed(interactions.train), interactions.train.times.tolist(), strict=True)) == train
    assert set(listed(interactions.validation)) == {*clicks["train"]} - {*train}
    assert set(listed(interactions.test)) == {*clicks["test"]} - {*clicks["train"]}
    assert min(map(len, (interactions.train, interactions.validation, interactions.test)))

    with pytest.raises(InputError, match="no candidate with a payment"):
        Interactions.from_pages(dataset, "payment")
    with pytest.raises(InputError, match="`kind` must be one of click, payment"):
        Interactions.from_pages(dataset, "cart")


def features_of(record):
    import tensorflow as tf

    features = tf.train.Example.FromString(record).features.feature
    return {name: list(features[name].int64_list.value) for name in ("user", "timestamp", "item", "clicked")}
