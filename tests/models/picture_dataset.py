"""Writes page datasets with pictures by hand, so that tests know every page and every pixel."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from beam_pipelines.format.manifest import (
    FORMAT,
    File,
    Images,
    Manifest,
    PretrainingView,
    Split,
    Table,
    Window,
    ids_sha256,
)
from beam_pipelines.format.records import SCHEMA_HASH, encode_page
from models.data.dataset import Dataset
from tests.page_features import no_statistics


def encode_picture(pixels: np.ndarray, image_format: str) -> bytes:
    """Compresses uint8 `(height, width, 3)`, without loss where the format can."""
    file = io.BytesIO()
    options = {"lossless": True} if image_format == "webp" else {"quality": 95, "subsampling": 0}
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def write_picture_dataset(
    root: Path,
    shards: Sequence[Sequence[np.ndarray]],
    place_of_item: Sequence[tuple[int, int]],
    pages: Sequence[dict] = (),
    *,
    view: Sequence[dict] | None = None,
    image_format: str = "jpeg",
    columns: Mapping[str, Sequence[str | None]] = MappingProxyType({}),
) -> Dataset:
    """Writes a dataset.

    Args:
        root: directory to write.
        shards: pictures per image shard.
        place_of_item: `(shard, index)` of each item's picture, `(-1, -1)` for none.
        pages: `item`, `clicked`, `click_item` and `timestamp` of each page of the split `pretrain`.
        view: the pages of the pre-training view. The whole pages if it is left out, as if pictures were found missing
            only when they were stored.
        image_format: `jpeg` or `webp`.
        columns: more columns of the item table.
    """
    for folder in ("pages", "pretraining", "items", "users", "images"):
        (root / folder).mkdir(parents=True)
    item_ids = [f"i{row}" for row in range(len(place_of_item))]
    pq.write_table(pa.table({"item_id": item_ids, **columns}), root / "items/items.parquet")
    pq.write_table(pa.table({"user_id": ["u0"]}), root / "users/users.parquet")
    files, hashes = [], {(-1, -1): ""}
    for number, pictures in enumerate(shards):
        path = f"images/images-{number:05d}-of-{len(shards):05d}.array_record"
        writer = ArrayRecordWriter(str(root / path), "group_size:1")
        for record, picture in enumerate(pictures):
            encoded = encode_picture(picture, image_format)
            hashes[number, record] = hashlib.sha256(encoded).hexdigest()
            writer.write(encoded)
        writer.close()
        files.append(File.of(root, path, len(pictures)))
    shard, index = np.array(place_of_item, np.int64).T
    sha256 = [hashes[tuple(place)] for place in place_of_item]
    pq.write_table(pa.table({"shard": shard, "index": index, "sha256": sha256}), root / "images/index.parquet")
    view = pages if view is None else view
    splits, pretraining = {}, None
    if pages:
        splits["pretrain"] = Split(**_write_pages(root, "pages/pretrain-00000-of-00001.tfrecord", pages))
    if view:
        pretraining = PretrainingView(
            **_write_pages(root, "pretraining/page-00000-of-00001.tfrecord", view),
            kind="page",
            max_candidates=_longest(view, "item"),
            max_clicks=_longest(view, "click_item"),
            categories=[],
        )
    Manifest(
        format=FORMAT,
        schema_hash=SCHEMA_HASH,
        features=[],
        notice="made up for a test",
        options={"image_side": 256, "image_format": image_format},
        sources=[],
        splits=splits,
        pretraining=pretraining,
        items=Table(file=File.of(root, "items/items.parquet", len(item_ids)), ids_sha256=ids_sha256(item_ids)),
        users=Table(file=File.of(root, "users/users.parquet", 1), ids_sha256=ids_sha256(["u0"])),
        images=Images(
            format=image_format,
            stored=sum(map(len, shards)),
            items_with_image=int((shard >= 0).sum()),
            missing={},
            shards=files,
            index=File.of(root, "images/index.parquet", len(shard)),
        ),
        max_candidates=_longest(pages, "item"),
        counters={"pretraining.pages": len(pages), "pretraining.without_history": len(pages) - len(view)},
    ).write(root)
    return Dataset(root)


def _write_pages(root: Path, path: str, pages: Sequence[dict]) -> dict:
    """Writes a shard; returns what `Split` says of it."""
    with tf.io.TFRecordWriter(str(root / path)) as writer:
        for number, page in enumerate(pages):
            writer.write(_page(number, **page))
    times = [page["timestamp"] for page in pages]
    return {
        "pages": len(pages),
        "impressions": sum(len(page["item"]) for page in pages),
        "clicks": sum(sum(page["clicked"]) for page in pages),
        "window": Window(first=min(times), last=max(times)),
        "negative_rate": 1.0,
        "history_lengths": {},
        "shards": [File.of(root, path, len(pages))],
    }


def _longest(pages: Sequence[dict], feature: str) -> int:
    return max((len(page[feature]) for page in pages), default=1)


def _page(number: int, item: list[int], clicked: list[int], click_item: list[int], timestamp: int) -> bytes:
    none = np.zeros(0, np.int64)
    return encode_page(
        {
            "page_id": [f"p{number}".encode()],
            "user": np.array([0]),
            "timestamp": np.array([timestamp]),
            "query": [b""],
            "item": np.array(item, np.int64),
            "position": np.arange(len(item)),
            "clicked": np.array(clicked, np.int64),
            "converted": np.zeros(len(item), np.int64),
            "dwell": np.zeros(len(item), np.float32),
            **no_statistics(len(item)),
            "click_item": np.array(click_item, np.int64),
            "click_time": timestamp - 1 - np.arange(len(click_item)),
            "pay_item": none,
            "pay_time": none,
            "cart_item": none,
            "cart_time": none,
        }
    )
