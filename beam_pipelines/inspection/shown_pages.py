"""Looks up what is shown of pages: titles, categories, small pictures, histories."""

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from beam_pipelines.format.manifest import SPLITS, Manifest
from beam_pipelines.format.page_reader import decode_page
from beam_pipelines.format.records import HISTORIES
from beam_pipelines.inspection.figures import moment_text
from beam_pipelines.inspection.html import ShownCandidate, ShownItem, ShownPage

HISTORY_STEPS = 12
_THUMBNAIL = (150, 150)
_DAY = 86_400_000


def shown_pages(dataset: Path, manifest: Manifest, chosen: Iterable[tuple[str, bytes]]) -> list[ShownPage]:
    """Looks up what is shown of pages: titles, categories, small pictures.

    Args:
        dataset: the directory. Its tables are verified already; of the pictures, the shards that are opened are here.
        manifest: its manifest.
        chosen: split and record.
    """
    pages = [(split, decode_page(record)) for split, record in chosen]
    pages.sort(key=lambda entry: (SPLITS.index(entry[0]), int(entry[1]["timestamp"][0])))
    rows = {int(item) for _, page in pages for item in page["item"]}
    rows |= {int(i) for _, page in pages for name in HISTORIES for i in page[f"{name}_item"][:HISTORY_STEPS]}
    pictures = _thumbnails(dataset, manifest, sorted(rows))
    table = pq.read_table(dataset / manifest.items.file.path, columns=["item_id", "title", "category"])
    items = {
        row: ShownItem(**content, picture=pictures.get(row, ""))
        for row, content in zip(sorted(rows), table.take(pa.array(sorted(rows), pa.int64())).to_pylist(), strict=True)
    }
    user_ids = pq.read_table(dataset / manifest.users.file.path, columns=["user_id"]).column(0)
    return [_shown_page(split, page, items, user_ids) for split, page in pages]


def _shown_page(split: str, page: dict, items: dict[int, ShownItem], user_ids: pa.ChunkedArray) -> ShownPage:
    time = int(page["timestamp"][0])
    columns = (page[name].tolist() for name in ("item", "position", "clicked", "converted", "dwell"))
    return ShownPage(
        split=split,
        page_id=page["page_id"][0].decode(),
        user_id=user_ids[int(page["user"][0])].as_py(),
        query=page["query"][0].decode(),
        time=moment_text(time, "m").replace("T", " ") + " UTC",
        candidates=[
            ShownCandidate(items[item], position, clicked == 1, converted == 1, dwell)
            for item, position, clicked, converted, dwell in zip(*columns, strict=True)
        ],
        histories={
            name: [
                (items[int(item)], _age(time - int(step)))
                for item, step in zip(
                    *(page[f"{name}_{part}"][:HISTORY_STEPS] for part in ("item", "time")), strict=True
                )
            ]
            for name in HISTORIES
        },
        history_lengths={name: len(page[f"{name}_item"]) for name in HISTORIES},
    )


def _thumbnails(dataset: Path, manifest: Manifest, rows: Sequence[int]) -> dict[int, str]:
    """Small pictures of those item rows that have one, as data URIs."""
    shards = manifest.images.shards if manifest.images is not None else []
    places = picture_places(dataset, manifest).take(pa.array(rows, pa.int64())).to_pylist()
    in_shard: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, place in zip(rows, places, strict=True):
        if place["shard"] >= 0:
            in_shard[place["shard"]].append((row, place["index"]))
    pictures = {}
    for shard, wanted in in_shard.items():
        manifest.verify(dataset, [shards[shard]])
        reader = ArrayRecordReader(str(dataset / shards[shard].path))
        for (row, _), picture in zip(wanted, reader.read([index for _, index in wanted]), strict=True):
            pictures[row] = _thumbnail(picture)
        reader.close()
    return pictures


def _thumbnail(picture: bytes) -> str:
    out = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.draft("RGB", _THUMBNAIL)
        image.thumbnail(_THUMBNAIL)
        image.save(out, "jpeg", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _age(milliseconds: int) -> str:
    """How long before, in the largest unit that fits."""
    for unit, length in (("d", _DAY), ("h", _DAY // 24), ("min", 60_000)):
        if milliseconds >= length:
            return f"{milliseconds // length:,} {unit}"
    return f"{milliseconds // 1000} s"


def picture_places(dataset: Path, manifest: Manifest) -> pa.Table:
    """Columns `shard` and `index` by item row, -1 without picture."""
    if manifest.images is None:
        nowhere = np.full(manifest.items.file.records, -1)
        return pa.table({"shard": nowhere, "index": nowhere})
    return pq.read_table(dataset / manifest.images.index.path, columns=["shard", "index"])
