import numpy as np
import pytest
import tensorflow as tf

from models.data.dataset import Dataset
from models.data.pages import PageLengths, page_records
from models.retrieval.two_tower.latest_histories import latest_histories
from tests.models.tiny_dataset import write_tiny_dataset

LENGTHS = PageLengths(candidates=6, click=7, pay=3, cart=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), pages=60, users=8).data)


def ints(record, name):
    return list(tf.train.Example.FromString(record).features.feature[name].int64_list.value)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_histories_are_what_pages_up_to_a_moment_say(dataset, share):
    window = dataset.split("train").window
    last = int(window.first + share * (window.last - window.first))
    records = [record for split in ("pretrain", "train") for record in page_records(dataset, split).as_numpy_iterator()]
    histories = latest_histories(dataset, last, LENGTHS)
    for user in range(8):
        own = [record for record in records if ints(record, "user") == [user]]
        pages = [record for record in own if ints(record, "timestamp")[0] <= last]
        click, pay = [], []
        if pages:
            newest = max(pages, key=lambda record: ints(record, "timestamp")[0])
            candidates = zip(ints(newest, "item"), ints(newest, "clicked"), strict=True)
            click = [item for item, clicked in candidates if clicked] + ints(newest, "click_item")
            pay = ints(newest, "pay_item")
        for found, steps, length in ((histories.click, click, 7), (histories.pay, pay, 3)):
            np.testing.assert_array_equal(found[user], [*steps, *[-1] * length][:length])


def test_nothing_of_later_pages_is_known(dataset):
    """A user's clicks after the moment are in no history: all steps are older than it."""
    window = dataset.split("train").window
    last = (window.first + window.last) // 2
    before, after = set(), set()
    for record in page_records(dataset, "test").as_numpy_iterator():
        for item, time in zip(ints(record, "click_item"), ints(record, "click_time"), strict=True):
            (after if time > last else before).add((ints(record, "user")[0], item))
    histories = latest_histories(dataset, last, PageLengths(candidates=6, click=100, pay=0, cart=0))
    known = {(user, item) for user, steps in enumerate(histories.click.tolist()) for item in steps if item >= 0}
    assert known & before
    assert not known & (after - before)
    assert histories.pay.shape == (8, 0)
