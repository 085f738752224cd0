"""A dataset of the toy ranker's items in another order, with hostile texts, pictures and a long history."""

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter

from beam_pipelines.format.manifest import FORMAT, File, Images, Manifest, Split, Table, Window, ids_sha256
from beam_pipelines.format.records import HISTORIES, SCHEMA_HASH, encode_page
from export.server.http_server import HttpServer
from export.viewer.answers import Answers
from export.viewer.web_service import WebService
from models.data.dataset import Dataset
from tests.browser import MARKUP
from tests.export.toy_ranker import ITEM_IDS, USER_IDS, toy_pages
from tests.models.picture_dataset import encode_picture
from tests.page_features import no_statistics

MOMENT = 1_700_000_000_000
HOSTILE = {
    MARKUP: f"{MARKUP} title",
    "\u202eright-to-left\u202c": "\u202egnir\u202c خاتم ذهب",
    "💍" * 40: "👩‍👩‍👧‍👦" * 200,
    "x" * 3000: "verylong" * 1000,
    "../../etc/passwd?a=1#b %2e": "",
}
"""ID to title of items that the ranker does not know."""
LONG = {"click": 1000, "pay": 1000, "cart": 200}
NO_PICTURE = 3
"""The dataset row of an item without picture."""


class Shop(NamedTuple):
    """The dataset, its pages as they were encoded, by split, and the toy ranker's row of each of its items."""

    dataset: Dataset
    pages: dict[str, list[dict]]
    toy_row: np.ndarray


def write_shop(root: Path) -> Shop:
    """Writes it: train pages are the toy ranker's; the first test page has whole histories, the other nothing."""
    ids = [*HOSTILE, *reversed(ITEM_IDS)]
    toy_row = np.array([ITEM_IDS.index(item) if item in ITEM_IDS else -1 for item in ids])
    row = {toy: shop for shop, toy in enumerate(toy_row.tolist())}
    users = [MARKUP, *reversed(USER_IDS)]
    train = toy_pages()
    for page in train:
        page["user"] = np.array([users.index(USER_IDS[page["user"][0]])])
        for name in ("item", *(f"{history}_item" for history in HISTORIES)):
            page[name] = np.array([row[item] for item in page[name].tolist()], np.int64)
    pages = {"train": train, "test": [_long_page(len(ids)), _page("", 0, [], [])]}
    for split, listed in pages.items():
        (root / "pages").mkdir(parents=True, exist_ok=True)
        for shard in range(2):
            with tf.io.TFRecordWriter(str(root / f"pages/{split}-{shard:05d}-of-00002.tfrecord")) as writer:
                for page in listed[shard::2]:
                    writer.write(encode_page(page))
        pages[split] = [*listed[::2], *listed[1::2]]  # in the order of the files
    titles = [HOSTILE.get(item, f"gold item {toy}") for item, toy in zip(ids, toy_row, strict=True)]
    categories = [("rings", "chains", "")[n % 3] for n in range(len(ids))]
    published = [MOMENT - n * 86_400_000 for n in range(len(ids))]
    items = pa.table({"item_id": ids, "category": categories, "title": titles, "published_at": published})
    tables = {}
    for name, table in (("items", items), ("users", pa.table({"user_id": users, "cat_country": users}))):
        (root / name).mkdir()
        pq.write_table(table, root / f"{name}/{name}.parquet")
        file = File.of(root, f"{name}/{name}.parquet", table.num_rows)
        tables[name] = Table(file=file, ids_sha256=ids_sha256(table.column(0).to_pylist()))
    splits = {name: _split(root, name, listed) for name, listed in pages.items()}
    Manifest(
        format=FORMAT,
        schema_hash=SCHEMA_HASH,
        features=[],
        notice=f"made up for a test {MARKUP}",
        options={},
        sources=[],
        splits=splits,
        pretraining=None,
        **tables,
        images=_images(root, len(ids)),
        max_candidates=max(len(page["item"]) for listed in pages.values() for page in listed),
        counters={},
    ).write(root)
    return Shop(Dataset(root), pages, toy_row)


@contextlib.contextmanager
def serving(answers: Answers) -> Iterator[int]:
    """Shows the viewer on a free port, which it yields."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = HttpServer([listening], WebService(answers, port), max_body=0)
        try:
            yield port
        finally:
            server.stop(grace=1)


def picture_of(row: int) -> bytes:
    """The stored picture of an item."""
    return encode_picture(np.full((40 + row, 30, 3), 7 * row % 256, np.uint8), "jpeg")


def _images(root: Path, items: int) -> Images:
    (root / "images").mkdir()
    path, rows = "images/images-00000-of-00001.array_record", [row for row in range(items) if row != NO_PICTURE]
    writer = ArrayRecordWriter(str(root / path), "group_size:1")
    for row in rows:
        writer.write(picture_of(row))
    writer.close()
    index = {"shard": np.zeros(items, np.int64), "index": np.arange(items) - (np.arange(items) > NO_PICTURE)}
    index["shard"][NO_PICTURE] = index["index"][NO_PICTURE] = -1
    hashes = ["" if row == NO_PICTURE else hashlib.sha256(picture_of(row)).hexdigest() for row in range(items)]
    pq.write_table(pa.table({**index, "sha256": hashes}), root / "images/index.parquet")
    return Images(
        format="jpeg",
        stored=len(rows),
        items_with_image=len(rows),
        missing={},
        shards=[File.of(root, path, len(rows))],
        index=File.of(root, "images/index.parquet", items),
    )


def _split(root: Path, name: str, pages: list[dict]) -> Split:
    counts = [len(pages) - len(pages) // 2, len(pages) // 2]
    moments = [int(page["timestamp"][0]) for page in pages]
    return Split(
        pages=len(pages),
        impressions=sum(len(page["item"]) for page in pages),
        clicks=sum(int(page["clicked"].sum()) for page in pages),
        window=Window(first=min(moments), last=max(moments)),
        negative_rate=1.0,
        history_lengths={},
        shards=[File.of(root, f"pages/{name}-{n:05d}-of-00002.tfrecord", counts[n]) for n in range(2)],
    )


def _long_page(items: int) -> dict:
    candidates = np.arange(8)
    random = np.random.default_rng(4)
    page = _page(f"long {MARKUP}", 0, candidates, random.integers(0, 2, 8))
    page["clicked"][:2] = 0, 1
    for name, length in LONG.items():
        page[f"{name}_item"] = random.integers(0, items, length)
        page[f"{name}_time"] = MOMENT - np.sort(random.integers(1, 10**10, length))
    return page


def _page(page_id: str, user: int, items: list | np.ndarray, clicked: list | np.ndarray) -> dict:
    count = len(items)
    page = {
        "page_id": [page_id.encode()],
        "user": np.array([user]),
        "timestamp": np.array([MOMENT]),
        "query": [MARKUP.encode()],
        "item": np.array(items, np.int64),
        "position": np.arange(count)[::-1].copy(),
        "clicked": np.array(clicked, np.int64),
        "converted": np.zeros(count, np.int64),
        "dwell": np.zeros(count, np.float32),
        **no_statistics(count),
    }
    for name in HISTORIES:
        page |= {f"{name}_item": np.zeros(0, np.int64), f"{name}_time": np.zeros(0, np.int64)}
    return page
