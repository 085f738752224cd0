"""Fills a ranker's feature tables from a dataset: vocabularies and statistics come from the training pages alone."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from beam_pipelines.records import HISTORIES
from models.ctr.config import FeatureSizes, RankerConfig
from models.ctr.ranker import Ranker
from models.ctr.text_embedding import hash_tokens
from models.embeddings.store import l2_normalize


class Counts(NamedTuple):
    """Occurrences on some pages: int64 by item row (candidates and history steps), int64 by user row (pages)."""

    items: np.ndarray
    users: np.ndarray


class FeatureTables(NamedTuple):
    """The content of a ranker's tables: attribute name of a tower's table to its rows, and their sizes."""

    sizes: FeatureSizes
    items: dict[str, np.ndarray]
    users: dict[str, np.ndarray]

    def fill(self, ranker: Ranker) -> None:
        """Writes the tables into a ranker of these sizes."""
        for tower, tables in ((ranker.items, self.items), (ranker.users, self.users)):
            for name, rows in tables.items():
                getattr(tower, name).assign(rows)


def count_occurrences(pages: tf.data.Dataset, items: int, users: int) -> Counts:
    """Counts items and users on pages.

    Args:
        pages: batches of parsed pages with whole histories.
        items: number of item rows.
        users: number of user rows.
    """
    counts = Counts(np.zeros(items, np.int64), np.zeros(users, np.int64))
    for page in pages.as_numpy_iterator():
        counts.users[:] += np.bincount(page["user"], minlength=users)
        for name in ("item", *(f"{history}_item" for history in HISTORIES)):
            counts.items[:] += np.bincount(page[name].ravel() + 1, minlength=items + 1)[1:]  # padding is -1
    return counts


def make_feature_tables(
    config: RankerConfig,
    items: pa.Table,
    users: pa.Table,
    counts: Counts,
    *,
    image_embeddings: np.ndarray | None = None,
    cluster_ids: np.ndarray | None = None,
    num_clusters: int = 0,
) -> FeatureTables:
    """Turns the dataset's tables into feature tables with one more row, for what is unknown.

    `label_*` columns are for evaluation and never read.

    Args:
        config: the architecture.
        items, users: the dataset's tables.
        counts: occurrences on the training pages.
        image_embeddings: float32 or float16 `(items, dim)`, zeros without picture, for `vector` and `simscore`.
        cluster_ids: int32 `(items,)`, -1 without picture, for `cluster_id`.
        num_clusters: number of cluster IDs.
    """
    titles = tf.constant([*items["title"].to_pylist(), ""])
    item_ids = _frequent(counts.items, config.min_count)
    categories = _vocabulary(items["category"], counts.items)
    item_tables = {
        "item_id": _append(item_ids, 0),
        "category": _append(categories, 0),
        "title": hash_tokens(titles, config.token_buckets, config.title_tokens).numpy().astype(np.int32),
        "stats": _append(_statistics(items, counts.items), 0),
    }
    image_dim = 0
    if image_embeddings is not None:
        image_dim = image_embeddings.shape[1]
        item_tables["image"] = _append(l2_normalize(image_embeddings), 0)
    if cluster_ids is not None:
        item_tables["cluster"] = _append(cluster_ids.astype(np.int32) + 1, 0)

    user_ids = _frequent(counts.users, config.min_count)
    cats = [_vocabulary(users[name], counts.users) for name in users.column_names if name.startswith("cat_")]
    user_tables = {
        "user_id": _append(user_ids, 0),
        "stats": _append(_statistics(users, counts.users), 0),
        "cats": _append(np.stack(cats, axis=1) if cats else np.zeros((len(users), 0), np.int32), 0),
    }
    sizes = FeatureSizes(
        items=len(items),
        users=len(users),
        item_ids=int(item_ids.max(initial=0)),
        user_ids=int(user_ids.max(initial=0)),
        categories=int(categories.max(initial=0)),
        item_stats=item_tables["stats"].shape[1],
        user_stats=user_tables["stats"].shape[1],
        user_cats=tuple(int(cat.max(initial=0)) for cat in cats),
        image_dim=image_dim,
        clusters=num_clusters,
    )
    return FeatureTables(sizes, item_tables, user_tables)


def _frequent(counts: np.ndarray, min_count: int) -> np.ndarray:
    """Numbers rows seen at least `min_count` times from 1; 0 for the others."""
    known = counts >= min_count
    return np.where(known, np.cumsum(known), 0).astype(np.int32)


def _vocabulary(column: pa.ChunkedArray, counts: np.ndarray) -> np.ndarray:
    """Numbers values seen in training from 1, in sorted order; 0 for empty and unseen ones."""
    values = np.asarray(pc.fill_null(column, "").to_pylist(), dtype=object)
    vocabulary = sorted(set(values[counts > 0]) - {""})
    number = {value: i for i, value in enumerate(vocabulary, start=1)}
    return np.array([number.get(value, 0) for value in values], np.int32)


def _statistics(table: pa.Table, counts: np.ndarray) -> np.ndarray:
    """`stat_*` columns with mean 0 and deviation 1 over the rows seen in training; 0 where missing."""
    names = [name for name in table.column_names if name.startswith("stat_")]
    values = np.stack([table[name].to_numpy().astype(np.float64) for name in names], axis=1) if names else None
    if values is None:
        return np.zeros((len(table), 0), np.float32)
    values[~np.isfinite(values)] = np.nan
    seen = np.ma.masked_invalid(values[counts > 0])
    mean, deviation = seen.mean(axis=0).filled(0.0), seen.std(axis=0).filled(0.0)
    normalised = (values - mean) / np.where(deviation > 0, deviation, 1.0)
    return np.nan_to_num(normalised, nan=0.0).astype(np.float32)


def _append(rows: np.ndarray, value: float) -> np.ndarray:
    """One more row of `value`."""
    return np.concatenate([rows, np.full((1, *rows.shape[1:]), value, rows.dtype)])
