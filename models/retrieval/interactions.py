"""Who has chosen what: the interactions that recommenders learn from, by row numbers of users and items."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from models.data.dataset import Dataset
from models.data.pages import page_records, page_timestamps, split_by_share

Kind = Literal["click", "payment"]
LABELS: dict[str, Literal["clicked", "converted"]] = {"click": "clicked", "payment": "converted"}
"""The label of a page that each kind counts."""

_PARSE_TOGETHER = 1024


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Interactions, each pair of a user and an item once.

    Attributes:
        users, items: row numbers, int32 `(n,)`.
        times: of the first time, epoch milliseconds, int64 `(n,)`; `None` where the source has no times.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> "Pairs":
        """Some of the pairs, by index or by mask."""
        return Pairs(self.users[rows], self.items[rows], None if self.times is None else self.times[rows])


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Interactions in three parts: to learn from, to choose the epoch by, and to measure with.

    A pair is in one part alone: what a user has in `train` is no question later on, and what is in `validation` none in
    `test`.

    Attributes:
        user_ids, item_ids: string IDs by row.
        train, validation, test: the parts; the latter two may be empty.
        counts: what became of the rows read: `rows`, and those left out by reason.
        kind: what counts on pages, if they come from pages.

    Raises:
        InputError: there is nothing to learn from.

    Example:
        >>> interactions = Interactions.from_pages(Dataset("artifacts/dataset"))
        >>> interactions = read_interactions("sports.inter")
    """

    user_ids: list[str]
    item_ids: list[str]
    train: Pairs
    validation: Pairs
    test: Pairs
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kind: Kind = "click"

    def __post_init__(self) -> None:
        if not len(self.train):
            raise InputError("there are no interactions to learn from")

    @classmethod
    def of(
        cls, user_ids: list[str], item_ids: list[str], train: Pairs, validation: Pairs, test: Pairs
    ) -> "Interactions":
        """Makes them from pairs that may occur several times: the first time counts, of the first part."""
        counts = {"rows": len(train) + len(validation) + len(test)}
        known = np.empty(0, np.int64)
        parts = []
        for name, pairs in (("train", train), ("validation", validation), ("test", test)):
            if pairs.times is not None:
                pairs = pairs.take(np.argsort(pairs.times, kind="stable"))
            keys = pairs.users.astype(np.int64) * len(item_ids) + pairs.items
            first = np.zeros(len(pairs), bool)
            first[np.unique(keys, return_index=True)[1]] = True
            earlier = np.isin(keys, known)
            counts[f"{name}_repeated"] = int((~first).sum())
            counts[f"{name}_in_an_earlier_part"] = int((first & earlier).sum())
            parts.append(pairs.take(first & ~earlier))
            known = np.concatenate([known, keys[first & ~earlier]])
        return cls(user_ids, item_ids, parts[0], parts[1], parts[2], counts)

    @classmethod
    def from_pages(cls, dataset: Dataset, kind: Kind = "click", validation_share: float = 0.1) -> "Interactions":
        """The clicks, or the payments, on the pages of a dataset.

        Earlier train pages are learned from, later ones validate, the test pages test. Users and items are the rows of
        the dataset's tables.

        Args:
            dataset: the page dataset.
            kind: `click`: what was clicked; `payment`: what was paid for after the click.
            validation_share: of the train pages, the latest.

        Raises:
            ArtifactError: there are no train pages.
            InputError: there is nothing to learn from.
        """
        if kind not in get_args(Kind):
            raise InputError(f"`kind` must be one of {', '.join(get_args(Kind))}. Received: {kind}")
        train = _pairs_of_pages(dataset, "train", LABELS[kind])
        if not len(train):
            raise InputError(f"the train pages of {dataset.path} have no candidate with a {kind}")
        window = dataset.split("train").window
        _, later, _ = split_by_share(page_timestamps(dataset, "train"), window, validation_share)
        assert train.times is not None
        is_later = train.times >= later.first
        test = _pairs_of_pages(dataset, "test", LABELS[kind]) if "test" in dataset.manifest.splits else _nothing()
        user_ids = dataset.users()["user_id"].to_pylist()
        item_ids = dataset.items()["item_id"].to_pylist()
        parts = cls.of(user_ids, item_ids, train.take(~is_later), train.take(is_later), test)
        return dataclasses.replace(parts, kind=kind)

    @classmethod
    def from_all_pages(cls, dataset: Dataset, kind: Kind = "click") -> "Interactions":
        """The clicks, or the payments, on all pages of a dataset, as `train`: what is known, with nothing left to ask.

        Args:
            dataset: the page dataset.
            kind: as of `from_pages`.

        Raises:
            InputError: there are none.
        """
        splits = [_pairs_of_pages(dataset, split, LABELS[kind]) for split in dataset.manifest.splits]
        users, items = (np.concatenate([getattr(pairs, name) for pairs in splits]) for name in ("users", "items"))
        times = np.concatenate([pairs.times for pairs in splits if pairs.times is not None])
        user_ids, item_ids = dataset.users()["user_id"].to_pylist(), dataset.items()["item_id"].to_pylist()
        known = cls.of(user_ids, item_ids, Pairs(users, items, times), _nothing(), _nothing())
        return dataclasses.replace(known, kind=kind)

    @property
    def num_users(self) -> int:
        """Number of user rows."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of item rows."""
        return len(self.item_ids)

    def digest(self) -> str:
        """Identifies the interactions: parts, rows and IDs."""
        digest = hashlib.sha256()
        for ids in (self.user_ids, self.item_ids):
            digest.update("\n".join(ids).encode() + b"\n\n")
        for pairs in (self.train, self.validation, self.test):
            for array in (pairs.users, pairs.items, pairs.times):
                digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _nothing() -> Pairs:
    return Pairs(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))


def _pairs_of_pages(dataset: Dataset, split: str, label: str) -> Pairs:
    """The candidates of a split that have a label, in the order of the pages' times."""
    spec = {
        "user": tf.io.FixedLenFeature([], tf.int64),
        "timestamp": tf.io.FixedLenFeature([], tf.int64),
        "item": tf.io.RaggedFeature(tf.int64),
        label: tf.io.RaggedFeature(tf.int64),
    }

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pages = tf.io.parse_example(serialized, spec)
        chosen = pages[label].flat_values == 1
        page = pages["item"].value_rowids()
        return tuple(
            tf.boolean_mask(values, chosen)
            for values in (
                tf.gather(pages["user"], page),
                pages["item"].flat_values,
                tf.gather(pages["timestamp"], page),
            )
        )

    parts = [
        [part.numpy() for part in parse(records)] for records in page_records(dataset, split).batch(_PARSE_TOGETHER)
    ]
    users, items, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pairs(users.astype(np.int32), items.astype(np.int32), times)
