"""The table from item row to stored picture, put together after the pictures are stored."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.images import ImageFormat
from beam_pipelines.manifest import File, Images
from beam_pipelines.page_transforms import RESULTS
from beam_pipelines.rejections import check_fraction

_NOT_NAMED = "no image named"


def index_images(directory: Path, image_of_item: Sequence[str], format: ImageFormat, max_bad_fraction: float) -> Images:
    """Writes `images/index.parquet` from what the shards say of their pictures.

    Raises:
        CommandError: too many pictures are bad.
    """
    shards: list[File] = []
    found = {"": (-1, -1, "", _NOT_NAMED)}
    for path in sorted((directory / RESULTS).glob("images-*.parquet")):
        entries = pq.read_table(path).to_pylist()
        pictures = len({entry["sha256"] for entry in entries} - {""})
        found |= {entry["image"]: (len(shards), entry["index"], entry["sha256"], entry["reason"]) for entry in entries}
        if pictures:
            shards.append(File.of(directory, f"images/{path.stem}.array_record", pictures))
    missing: Counter[str] = Counter()
    rows = []
    for image in image_of_item:
        shard, index, sha256, reason = found[image]
        rows.append((shard if sha256 else -1, index, sha256))
        if reason:
            missing[reason] += 1
    bad = Counter({reason: count for reason, count in missing.items() if reason != _NOT_NAMED})
    named = sum(1 for image in image_of_item if image)
    check_fraction("items with a picture", bad.total(), named, bad, max_bad_fraction)
    index_path = "images/index.parquet"
    columns = dict(zip(("shard", "index", "sha256"), map(list, zip(*rows, strict=True)), strict=True))
    schema = pa.schema([("shard", pa.int32()), ("index", pa.int64()), ("sha256", pa.string())])
    (directory / "images").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema), directory / index_path)
    return Images(
        format=format,
        stored=sum(shard.records for shard in shards),
        items_with_image=named - bad.total(),
        missing=dict(sorted(missing.items())),
        shards=shards,
        index=File.of(directory, index_path, len(rows)),
    )
