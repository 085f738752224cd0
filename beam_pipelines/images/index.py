"""The table from item row to stored picture: put together from what the writers of the shards say."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.exchange import DIFFERENT_WORKERS, decode_block
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import File, Images
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.images.refusals import MISSING, OUTSIDE, describe_refusals, quoted
from beam_pipelines.images.source import ImageSource, folders_of
from beam_pipelines.images.transforms import SHARD_INDEX
from beam_pipelines.options import ImageFormat

_NOT_NAMED = "no image named"
_NOT_IN_PREVIOUS = "none in the previous dataset"
NOT_REFUSED = (_NOT_NAMED, _NOT_IN_PREVIOUS)
"""Reasons of items that name no picture in the logs."""


def index_images(
    directory: Location,
    written: Iterable[tuple[int, int, bytes]],
    image_of_item: pa.Array,
    format: ImageFormat,
    max_bad_fraction: float,
    *,
    source: Location,
    kept: pa.Array,
    counters: Counter[str],
    told: list[str],
) -> Images:
    """Writes `images/index.parquet` from what the shards say of their pictures.

    Args:
        directory: the dataset.
        written: from `WriteImages`: shards, numbers of blocks of what they say, and the blocks. What comes twice must
            be equal.
        image_of_item: string `(items,)`: the picture that each item row names in the logs, empty if none; null for
            items that are only in the previous dataset.
        format: of the stored pictures.
        max_bad_fraction: of the items that name a picture.
        source: the log directory's pictures.
        kept: see `kept_hashes`.
        counters: what is counted is added here. `images.named`, the distinct names in the logs, equals the stored
            pictures without `images.only_in_previous`, plus `images.same_content`, plus every `images.refused.REASON`.
            `images.found_by.DIFFERENCE` are names spelt in another way than the path that was found, `images.reused`
            pictures copied from the previous dataset.
        told: what whoever builds should know is added here.

    Raises:
        InputError: too many pictures are bad, the fate of some is not known, or a shard was written twice, and
            differently.
    """
    shards: list[File] = []
    tables = [SHARD_INDEX.empty_table().append_column("shard", pa.array([], pa.int32()))]
    reused = 0
    blocks: dict[tuple[int, int], bytes] = {}
    for shard, number, block in written:
        if blocks.setdefault((shard, number), block) != block:
            raise InputError(f"pictures of shard {shard} were written twice, and differently: {DIFFERENT_WORKERS}")
    for (_, number), block in sorted(blocks.items()):
        table = pa.Table.from_batches(decode_block(block))
        if number == 0:
            file = table.schema.metadata.get(b"file")
            shards += [File.model_validate_json(file)] if file else []
            reused += int(table.schema.metadata[b"reused"])
        tables.append(table.append_column("shard", pa.repeat(pa.scalar(len(shards) - 1, pa.int32()), len(table))))
    counters["images.reused"] = reused
    found = pa.concat_tables([table.replace_schema_metadata() for table in tables]).combine_chunks()

    named = pc.fill_null(pc.not_equal(image_of_item, ""), False)
    by_name = pc.index_in(image_of_item, value_set=found["image"], skip_nulls=True)
    sha256 = pc.if_else(named, pc.take(found["sha256"], by_name), kept)
    place = pc.index_in(pc.if_else(pc.equal(sha256, ""), None, sha256), value_set=found["sha256"], skip_nulls=True)
    if lost := pc.sum(pc.and_(pc.is_null(place), pc.fill_null(pc.not_equal(sha256, ""), True))).as_py():
        raise InputError(f"nothing is known of the pictures of {lost} items: {DIFFERENT_WORKERS}")
    index = pa.table(
        {
            "shard": pc.fill_null(pc.take(found["shard"], place), -1),
            "index": pc.fill_null(pc.take(found["index"], place), -1),
            "sha256": sha256,
        }
    )
    without = pc.equal(sha256, "")
    bad = Counter(pc.take(found["reason"], by_name).filter(pc.and_(named, without)).to_pylist())
    stored = sum(shard.records for shard in shards)
    by_logs = found.filter(pc.is_valid(found["image"]))
    _count_names(by_logs, stored, counters)
    told += _spellings(by_logs, counters)
    total = pc.sum(named).as_py()
    if bad:
        examples = _examples(by_logs, "reason")
        refused = describe_refusals(bad, examples)
        if bad.total() > max_bad_fraction * total:
            raise InputError(
                f"{bad.total()} of {total} items with a picture are bad ({refused}); `max_bad_fraction` allows "
                f"{max_bad_fraction:g}. {_looked_for(source, image_of_item.filter(named).to_pylist(), examples)}"
            )
        told.append(f"pictures: {bad.total()} of {total} items get none ({refused})")
    missing = bad | Counter(
        {
            _NOT_NAMED: pc.sum(pc.fill_null(pc.equal(image_of_item, ""), False)).as_py(),
            _NOT_IN_PREVIOUS: pc.sum(pc.and_(pc.is_null(image_of_item), without)).as_py(),
        }
    )
    index_path = "images/index.parquet"
    with whole_file(directory / index_path) as scratch:
        pq.write_table(index, scratch)
        file_of_index = File.at(scratch, index_path, len(index))
    return Images(
        format=format,
        stored=stored,
        items_with_image=len(index) - pc.sum(without).as_py(),
        missing=dict(sorted(missing.items())),
        shards=shards,
        index=file_of_index,
    )


def _count_names(by_logs: pa.Table, stored: int, counters: Counter[str]) -> None:
    """Counts the names of pictures in the logs by what became of them; see `index_images`."""
    pictures = Counter(by_logs["sha256"].to_pylist())
    refused = pictures.pop("", 0)
    counters["images.named"] = len(by_logs)
    counters["images.same_content"] = len(by_logs) - refused - len(pictures)
    counters["images.only_in_previous"] = stored - len(pictures)
    for column, prefix in (("reason", "images.refused"), ("found_by", "images.found_by")):
        counts = Counter(by_logs[column].to_pylist())
        counters.update({f"{prefix}.{value}": count for value, count in counts.items() if value})


def _spellings(by_logs: pa.Table, counters: Counter[str]) -> list[str]:
    listed = [
        f"{counters[f'images.found_by.{found_by}']} by {found_by}: {quoted(names[0][0])} is {quoted(names[0][1])}"
        for found_by, names in _examples(by_logs, "found_by").items()
    ]
    return [f"pictures: some names are not the path of one file ({'; '.join(listed)})"] if listed else []


def _examples(by_logs: pa.Table, column: Literal["reason", "found_by"]) -> dict[str, list[tuple[str, str]]]:
    """The first two names and their details of each value of a column that is not empty."""
    rows = by_logs.filter(pc.not_equal(by_logs[column], "")).select([column, "image", "detail"])
    examples: dict[str, list[tuple[str, str]]] = {}
    for value in sorted(pc.unique(rows[column]).to_pylist()):
        alike = rows.filter(pc.equal(rows[column], value))
        first = alike.take(pc.select_k_unstable(alike, 2, [("image", "ascending")]))
        examples[value] = list(zip(first["image"].to_pylist(), first["detail"].to_pylist(), strict=True))
    return examples


def _looked_for(images: Location, names: Sequence[str], examples: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    source = ImageSource(images, folders_of(names))
    try:
        return source.describe([name for reason in (MISSING, OUTSIDE) for name, _ in examples.get(reason, ())])
    finally:
        source.close()
