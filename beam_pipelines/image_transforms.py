"""The Beam transforms that store pictures: each distinct one once, in shards by content hash."""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter

from beam_pipelines.command import whole_file
from beam_pipelines.images import BadImageError, ImageFormat, ImageSource, content_hash, normalise_image
from beam_pipelines.page_transforms import RESULTS

IMAGE_NAMES_PER_ELEMENT = 256
_IMAGE_INDEX = pa.schema(
    [("image", pa.string()), ("sha256", pa.string()), ("index", pa.int64()), ("reason", pa.string())]
)


@beam.typehints.with_input_types(list[str])
@beam.typehints.with_output_types(tuple[int, tuple[str, str, str]])
class HashImages(beam.DoFn):
    """Reads pictures to hash them: yields `(shard, (name, content hash, reason))`, the hash or the reason empty.

    Pictures are read here and once more where they are stored: what goes through the shuffle are hashes, not pictures.
    """

    def __init__(self, images: Path, shards: int) -> None:
        self._images = images
        self._shards = shards

    def setup(self) -> None:
        """Opens the pictures."""
        self._source = ImageSource(self._images)

    def process(self, names: list[str]) -> Iterator[tuple[int, tuple[str, str, str]]]:
        """Hashes some pictures."""
        for name in names:
            try:
                digest = content_hash(self._source.read(name))
            except BadImageError as error:
                yield zlib.crc32(name.encode()) % self._shards, (name, "", str(error))
            else:
                yield int(digest[:8], 16) * self._shards >> 32, (name, digest, "")

    def teardown(self) -> None:
        """Closes the pictures."""
        self._source.close()


@beam.typehints.with_input_types(tuple[int, Iterable[tuple[str, str, str]]])
class WriteImages(beam.DoFn):
    """Stores each distinct picture of a shard once, ordered by content hash, and says where each name went.

    Args:
        directory: the dataset.
        images: the log directory's pictures.
        shards: how many there are.
        side, format: see `images.normalise_image`.
    """

    def __init__(self, directory: Path, images: Path, shards: int, side: int, format: ImageFormat) -> None:
        self._directory = directory
        self._images = images
        self._shards = shards
        self._side = side
        self._format = format

    def setup(self) -> None:
        """Opens the pictures."""
        self._source = ImageSource(self._images)

    def process(self, element: tuple[int, Iterable[tuple[str, str, str]]]) -> None:
        """Writes one shard."""
        shard, entries = element
        names: dict[str, list[str]] = {}
        index: list[tuple[str, str, int, str]] = []
        for name, digest, reason in entries:
            if digest:
                names.setdefault(digest, []).append(name)
            else:
                index.append((name, "", -1, reason))
        stored = 0
        path = self._directory / "images" / f"images-{shard:05d}-of-{self._shards:05d}.array_record"
        with whole_file(path) as temporary:
            # One record per group: a reader that wants one picture reads one picture. They are compressed already.
            writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
            for digest, picture in self._normalised(sorted(names), names):
                if isinstance(picture, bytes):
                    writer.write(picture)
                    index += [(name, digest, stored, "") for name in names[digest]]
                    stored += 1
                else:
                    index += [(name, "", -1, picture) for name in names[digest]]
            writer.close()
        if not stored:
            path.unlink()
        columns = [pa.array(c, f.type) for c, f in zip(zip(*index, strict=True), _IMAGE_INDEX, strict=True)]
        with whole_file(self._directory / RESULTS / f"{path.stem}.parquet") as temporary:
            pq.write_table(pa.table(columns, schema=_IMAGE_INDEX), temporary)

    def _normalised(self, digests: list[str], names: dict[str, list[str]]) -> Iterator[tuple[str, bytes | str]]:
        """Content hash and the picture in its final form, or the reason why there is none; in the order given."""

        def normalised(digest: str) -> bytes | str:
            try:
                source = self._source.read(names[digest][0])
                return normalise_image(source, self._side, self._format)
            except BadImageError as error:
                return str(error)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and resizing release the interpreter lock
            for start in range(0, len(digests), 256):
                block = digests[start : start + 256]
                yield from zip(block, pool.map(normalised, block), strict=True)

    def teardown(self) -> None:
        """Closes the pictures."""
        self._source.close()


def store_images(
    pipeline: beam.Pipeline,
    directory: Path,
    images: Path,
    names: Sequence[str],
    shards: int,
    side: int,
    format: ImageFormat,
) -> None:
    """Adds the transforms from picture names to picture shards."""
    blocks = [list(names[i : i + IMAGE_NAMES_PER_ELEMENT]) for i in range(0, len(names), IMAGE_NAMES_PER_ELEMENT)]
    _ = (
        pipeline
        | "ImageNames" >> beam.Create(blocks, reshuffle=True)
        | "HashImages" >> beam.ParDo(HashImages(images, shards))
        | "GroupImages" >> beam.GroupByKey()
        | "WriteImages" >> beam.ParDo(WriteImages(directory, images, shards, side, format))
    )
