"""Writes small page datasets, and embeddings and clusters for them, without the commands that make real ones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from beam_pipelines.format.manifest import FORMAT, File, Manifest, Split, Table, Window, ids_sha256
from beam_pipelines.format.records import SCHEMA_HASH, encode_page
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from tests.models.saved_embeddings import save_embeddings
from tests.page_features import no_statistics

DAY = 86_400_000


class TinyDataset(NamedTuple):
    """Where the pieces are, and the style (the hidden visual taste dimension) of each item."""

    data: Path
    embeddings: Path
    clusters: Path
    styles: np.ndarray


def write_tiny_dataset(
    root: Path,
    *,
    items: int = 120,
    users: int = 40,
    pages: int = 240,
    candidates: int = 6,
    styles: int = 6,
    train_negatives: float = 1.0,
    click_rates: tuple[float, float] = (0.5, 0.08),
    shards: int = 2,
    seed: int = 0,
    first_item: int = 0,
) -> TinyDataset:
    """Users like two styles each, which only pictures show; the last fifth of the items appears in `test/` only.

    Items are clicked at the first of `click_rates` if they have a style that the user likes, else at the second.
    Train pages keep the share `train_negatives` of their unclicked candidates, the rest is the same whatever it is.
    Items are named by their numbers, from `first_item` on.
    """
    rng, sampling = np.random.default_rng(seed), np.random.default_rng(seed)
    style = rng.integers(0, styles, items)
    taste = np.stack([rng.choice(styles, 2, replace=False) for _ in range(users)])
    clicks: list[list[tuple[int, int]]] = [[] for _ in range(users)]
    splits = {"pretrain": pages // 6, "train": pages, "test": pages // 3}
    data = root / "data"
    (data / "pages").mkdir(parents=True)
    start, described = 1_600_000_000_000, {}
    for name, count in splits.items():
        records, first, positives = [], start, 0
        for n in range(count):
            user = int(rng.integers(users))
            start += int(rng.integers(1, 3 * DAY * 30 // pages))
            known = items if name == "test" else items * 4 // 5
            size = int(rng.integers(2, candidates + 1))
            shown = rng.choice(known, size, replace=False)
            liked = np.isin(style[shown], taste[user])
            clicked = (rng.random(size) < np.where(liked, *click_rates)).astype(np.int64)
            history = clicks[user][::-1]
            rows = np.array([i for i, _ in history], np.int64)
            times = np.array([t for _, t in history], np.int64)
            clicks[user] += [(int(i), start) for i in shown[clicked == 1]]
            position = np.arange(size)
            if name == "train":
                position = position[(clicked == 1) | (sampling.random(size) < train_negatives)]
                shown, clicked, size = shown[position], clicked[position], len(position)
            if not size:
                continue
            records.append(
                encode_page(
                    {
                        "page_id": [f"{name}-{n}".encode()],
                        "user": np.array([user]),
                        "timestamp": np.array([start]),
                        "query": [b"dress" if n % 2 else b""],
                        "item": shown,
                        "position": position,
                        "clicked": clicked,
                        "converted": clicked * 0,
                        "dwell": np.zeros(size, np.float32),
                        **no_statistics(size),
                        "click_item": rows,
                        "click_time": times,
                        "pay_item": rows[::3],
                        "pay_time": times[::3],
                        "cart_item": rows[:0],
                        "cart_time": times[:0],
                    }
                )
            )
            positives += int(clicked.sum())
        files = []
        for k in range(shards):
            path, part = f"pages/{name}-{k:05d}-of-{shards:05d}.tfrecord", records[k::shards]
            with tf.io.TFRecordWriter(str(data / path)) as writer:
                for record in part:
                    writer.write(record)
            files.append(File.of(data, path, len(part)))
        window = Window(first=first + 1, last=start)
        described[name] = Split(
            pages=len(records),
            impressions=0,
            clicks=positives,
            window=window,
            negative_rate=train_negatives if name == "train" else 1.0,
            history_lengths={},
            shards=files,
        )
        start += DAY

    item_ids = [f"item{first_item + i:05d}" for i in range(items)]
    user_ids = [f"user{u:05d}" for u in range(users)]
    item_table = pa.table(
        {
            "item_id": item_ids,
            "category": [["dress", "shirt", "shoe", ""][i % 4] for i in range(items)],
            "title": [f"Nice {['dress', 'shirt', 'shoe', ''][i % 4]} no {i % 7}" for i in range(items)],
            "stat_price": [None if i % 9 == 0 else float(i % 13) for i in range(items)],
            "label_style": [f"style{s}" for s in style],
        }
    )
    user_table = pa.table(
        {
            "user_id": user_ids,
            "stat_age": [float(u % 50) for u in range(users)],
            "cat_city": [["", "a", "b"][u % 3] for u in range(users)],
        }
    )
    tables = {}
    for name, table, ids in (("items", item_table, item_ids), ("users", user_table, user_ids)):
        (data / name).mkdir()
        pq.write_table(table, data / name / f"{name}.parquet")
        file = File.of(data, f"{name}/{name}.parquet", len(ids))
        tables[name] = Table(file=file, ids_sha256=ids_sha256(ids))
    manifest = Manifest(
        format=FORMAT,
        schema_hash=SCHEMA_HASH,
        features=[],
        notice="simulated for a test",
        options={},
        sources=[],
        splits=described,
        pretraining=None,
        images=None,
        max_candidates=candidates,
        counters={},
        **tables,
    )
    manifest.write(data)

    centers = rng.normal(size=(styles, 8))
    vectors = (centers[style] + 0.2 * rng.normal(size=(items, 8))).astype(np.float32)
    has_image = np.arange(items) % 11 != 0
    embeddings = save_embeddings(
        root / "embeddings",
        vectors,
        has_image,
        Dataset(data),
        weights_sha256="",
        dataset_digest=manifest.digest(),
        window=described["pretrain"].window,
        notice=manifest.notice,
    )
    clusters = Clusters.save(
        root / "clusters",
        np.where(has_image, style, -1).astype(np.int32),
        centers.astype(np.float32),
        embeddings=embeddings.metadata,
        backend="exact",
        normalize=True,
        spherical=False,
        mean_squared_distance=0.1,
        seed=0,
    )
    return TinyDataset(data, embeddings.path, clusters.path, style)
