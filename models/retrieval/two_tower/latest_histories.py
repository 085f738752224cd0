"""What users had done by a moment: the histories from which they get candidates when nothing newer is known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead
from models.data.pages import PADDING, PageLengths, page_records, parse_pages

_PARSE_TOGETHER = 1024


class LatestHistories(NamedTuple):
    """Histories of all users.

    Attributes:
        click, pay: item rows int32 `(users, steps)`, newest first, padded with -1.
    """

    click: np.ndarray
    pay: np.ndarray


def latest_histories(
    dataset: Dataset, last: int, lengths: PageLengths, splits: Sequence[str] = ("pretrain", "train")
) -> LatestHistories:
    """Histories of all users from their pages up to a moment.

    A user's newest page has the history before it; what was clicked, and paid for, on it comes on top. Pages of one
    user and one moment are one page here. Users without a page have empty histories.

    Args:
        dataset: the page dataset.
        last: the moment, epoch milliseconds, inclusive.
        lengths: steps at most; `candidates` must fit the dataset's pages.
        splits: that are read, as far as there are any.
    """
    splits = [name for name in splits if name in dataset.manifest.splits]
    newest = np.full(dataset.manifest.users.file.records, -1, np.int64)
    for split in splits:
        times = map_ahead(page_records(dataset, split).batch(_PARSE_TOGETHER), _users_and_times)
        for users, timestamps in times.as_numpy_iterator():
            known = (timestamps <= last) & (users >= 0)
            np.maximum.at(newest, users[known], timestamps[known])
    histories = LatestHistories(
        *(np.full((len(newest), getattr(lengths, name)), PADDING, np.int32) for name in LatestHistories._fields)
    )
    on_top: dict[int, tuple[list[int], list[int]]] = {}

    def newest_pages(records: tf.Tensor) -> dict[str, tf.Tensor]:
        users, timestamps = _users_and_times(records)
        is_newest = (users >= 0) & (timestamps == tf.gather(newest, tf.maximum(users, 0)))
        return parse_pages(tf.boolean_mask(records, is_newest), lengths)

    for split in splits:
        for pages in map_ahead(page_records(dataset, split).batch(_PARSE_TOGETHER), newest_pages).as_numpy_iterator():
            for name in LatestHistories._fields:
                getattr(histories, name)[pages["user"]] = pages[f"{name}_item"]
            for user, items, clicked, converted in zip(
                *(pages[name] for name in ("user", "item", "clicked", "converted")), strict=True
            ):
                clicks, pays = on_top.setdefault(int(user), ([], []))
                clicks += items[(clicked == 1) & (items != PADDING)].tolist()
                pays += items[(converted == 1) & (items != PADDING)].tolist()
    for user, of_user in on_top.items():
        for history, items in zip(histories, of_user, strict=True):
            steps = [*items, *history[user]][: history.shape[1]]
            history[user] = steps
    return histories


def _users_and_times(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    spec = {name: tf.io.FixedLenFeature([], tf.int64) for name in ("user", "timestamp")}
    parsed = tf.io.parse_example(records, spec)
    return parsed["user"], parsed["timestamp"]
