"""The Beam transforms that store pictures: each distinct one once, in shards by content hash.

In process, a picture is read, hashed and brought to its final form in one go, and waits in a scratch file. Elsewhere it
is read and hashed, and whoever writes its shard reads it again. What goes through the shuffle are names, hashes and
places, so that memory and groups do not grow with the pictures.
"""

import contextlib
import itertools
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection
from array_record.python.array_record_module import ArrayRecordWriter

from beam_pipelines.exchange import Exchange, Piece, Writer, encode_in_blocks
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import File
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.images.normalisation import normalise_image
from beam_pipelines.images.previous_images import PreviousImages
from beam_pipelines.images.refusals import BadImageError, quoted
from beam_pipelines.images.source import ImageSource, content_hash
from beam_pipelines.options import ImageFormat
from beam_pipelines.picture_plan import PicturePlan

SHARD_INDEX = pa.schema(
    [
        ("image", pa.string()),
        ("found_by", pa.string()),
        ("detail", pa.string()),
        ("sha256", pa.string()),
        ("index", pa.int64()),
        ("reason", pa.string()),
    ]
)
"""What the writer of a shard says of it: for each name the stored picture, or the reason why there is none.

`image` is null for pictures of items that are only in the previous dataset: no name is known for them. `found_by` says
how the name differs from the path, which is the `detail` then; that of a `reason` is what more is known. The metadata
hold `file` (a `manifest.File`, if any picture is stored) and `reused` (pictures from the previous dataset).
"""

_NAMES_AT_ONCE = 16
_READ_AGAIN_AT_ONCE = 64
_REMEMBERED = 100_000  # pictures that a worker recognises when they come again under another name; about 25 MB

_IN_PREVIOUS = "in the previous dataset"
_AT_SOURCE = "at the source"
_Place: TypeAlias = Piece | str  # where the picture is, in its final form or not yet
_Outcome: TypeAlias = tuple[str, str, _Place]  # why there is no picture, and its detail; or empty, and the place
_Entry: TypeAlias = tuple[str, str, str, str, str, str, _Place]  # name, how found and where, content hash, outcome


class ImagePlan(NamedTuple):
    """What every worker that stores pictures must know.

    Attributes:
        directory: the dataset.
        exchange: how pictures go from one transform to the next.
        pictures: which there are.
        batches: in how many batches.
        images: the log directory's pictures, which passed `check_images`.
        shared: leading folders that all names share, see `folders_of`.
        shards: how many to write.
        side, format: see `normalise_image`.
        previous: the previous dataset: pictures that are stored there in the same form are copied.
    """

    directory: Location
    exchange: Exchange
    pictures: PicturePlan
    batches: int
    images: Location
    shared: tuple[str, ...]
    shards: int
    side: int
    format: ImageFormat
    previous: Location | None

    def open_previous(self) -> PreviousImages | None:
        """The pictures of the previous dataset, if there are any."""
        return PreviousImages(self.previous, self.side, self.format) if self.previous is not None else None


@beam.typehints.with_input_types(int)
@beam.typehints.with_output_types(tuple[int, list[_Entry]])
class NormaliseImages(beam.DoFn):
    """Finds and hashes pictures, and brings them to their final form: yields `(shard, entries)`.

    An element is the number of a batch.
    """

    def __init__(self, plan: ImagePlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Opens the pictures and starts a thread per core: decoding and resizing release the interpreter lock."""
        _silence_pil()
        self._source = ImageSource(self._plan.images, self._plan.shared)
        self._reusable = self._plan.open_previous() or ()
        self._done: dict[str, _Outcome] = {}
        self._open = contextlib.ExitStack()
        writers = [self._plan.exchange.writer() for _ in os.sched_getaffinity(0)]
        self._writers = [self._open.enter_context(writer) for writer in writers]
        self._pool = ThreadPoolExecutor(len(self._writers))

    def process(self, batch: int) -> Iterator[tuple[int, list[_Entry]]]:
        """Brings some pictures to their final form."""
        pictures, shards = self._plan.pictures.pictures(batch), self._plan.shards
        names = [name for name, _ in pictures if name]
        # The threads share this iterator: each takes the next names when it is done with some.
        waiting = iter([names[i : i + _NAMES_AT_ONCE] for i in range(0, len(names), _NAMES_AT_ONCE)])
        by_shard: dict[int, list[_Entry]] = {}
        kept: list[_Entry] = [("", "", "", sha256, "", "", _IN_PREVIOUS) for _, sha256 in pictures if sha256]
        for entries in [kept, *self._pool.map(self._store, [waiting] * len(self._writers), self._writers)]:
            for entry in entries:
                name, _, _, sha256, *_ = entry
                shard = int(sha256[:8], 16) * shards >> 32 if sha256 else zlib.crc32(name.encode()) % shards
                by_shard.setdefault(shard, []).append(entry)
        yield from by_shard.items()

    def _store(self, waiting: Iterator[list[str]], writer: Writer) -> list[_Entry]:
        entries: list[_Entry] = []
        for names in waiting:  # all are read, then all decoded: faster than in turn when they are small
            sources: dict[str, bytes] = {}
            found: list[tuple[str, str, str, str]] = []
            for name in names:
                try:
                    place = self._source.find(name)
                    source = self._source.read(place)
                except BadImageError as error:
                    entries.append((name, "", "", "", error.reason, error.detail, ""))
                else:
                    sha256 = content_hash(source)
                    sources[sha256] = source
                    found.append((name, place.found_by, place.path if place.found_by else "", sha256))
            outcomes = {sha256: self._outcome(sha256, source, writer) for sha256, source in sources.items()}
            entries += [(name, by, path, sha256, *outcomes[sha256]) for name, by, path, sha256 in found]
            if len(self._done) > _REMEMBERED:
                self._done.clear()
            self._done.update(outcomes)
        writer.flush()
        return entries

    def _outcome(self, sha256: str, source: bytes, writer: Writer) -> _Outcome:
        if sha256 in self._reusable:
            return "", "", _IN_PREVIOUS
        if not self._plan.exchange.carries_pictures:
            return "", "", _AT_SOURCE
        if sha256 in self._done:
            return self._done[sha256]
        try:
            return "", "", writer.write(normalise_image(source, self._plan.side, self._plan.format))
        except BadImageError as error:
            return error.reason, error.detail, ""

    def teardown(self) -> None:
        """Ends the threads and closes the pictures."""
        self._pool.shutdown()
        self._open.close()
        self._source.close()


@beam.typehints.with_input_types(tuple[int, Iterable[list[_Entry]]])
@beam.typehints.with_output_types(tuple[int, int, bytes])
class WriteImages(beam.DoFn):
    """Stores each distinct picture of a shard once, ordered by content hash, and says where each name went.

    Yields `(shard, number, block)`: what is to be said, with the schema `SHARD_INDEX`, in numbered blocks.
    """

    def __init__(self, plan: ImagePlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Opens the previous dataset and, where they are read again, the pictures."""
        _silence_pil()
        self._reusable = self._plan.open_previous()
        self._source = None
        if not self._plan.exchange.carries_pictures:
            self._source = ImageSource(self._plan.images, self._plan.shared)
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def process(self, element: tuple[int, Iterable[list[_Entry]]]) -> Iterator[tuple[int, int, bytes]]:
        """Writes one shard."""
        shard, entries = element
        names: dict[str, list[tuple[str | None, str, str]]] = {}
        places: dict[str, _Place] = {}
        index: list[tuple[str | None, str, str, str, int, str]] = []
        entry: _Entry
        for entry in itertools.chain.from_iterable(entries):
            name, found_by, path, sha256, reason, detail, place = entry
            if reason:
                index.append((name, found_by, detail, "", -1, reason))
            else:
                names.setdefault(sha256, []).append((name or None, found_by, path))
                places[sha256] = place
        path = f"images/images-{shard:05d}-of-{self._plan.shards:05d}.array_record"
        reused = sum(place == _IN_PREVIOUS for place in places.values())
        metadata = {"reused": str(reused)}
        with contextlib.ExitStack() as stack:
            writer, rows = None, 0
            for sha256, picture in self._pictures(sorted(places.items()), names):
                found = names[sha256]
                if isinstance(picture, BadImageError):
                    index += [(name, by, picture.detail, "", -1, picture.reason) for name, by, _ in found]
                    continue
                if writer is None:
                    temporary = stack.enter_context(whole_file(self._plan.directory / path))
                    # One record per group: a reader that wants one picture reads one. They are compressed already.
                    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
                writer.write(picture)
                index += [(*name, sha256, rows, "") for name in found]
                rows += 1
            if writer is not None:
                writer.close()
                metadata["file"] = File.at(temporary, path, rows).model_dump_json()
        self._plan.exchange.report()
        index.sort(key=lambda row: (row[3:5], row[0] or ""))
        columns = [pa.array(c, f.type) for c, f in zip(zip(*index, strict=True), SHARD_INDEX, strict=True)]
        batch = pa.record_batch(columns, schema=SHARD_INDEX.with_metadata(metadata))
        for number, block in enumerate(encode_in_blocks(batch)):
            yield shard, number, block.to_pybytes()

    def _pictures(
        self, places: list[tuple[str, _Place]], names: dict[str, list[tuple[str | None, str, str]]]
    ) -> Iterator[tuple[str, bytes | BadImageError]]:
        """Pictures in their final form, in the order of the places; or why there is none."""
        for first in range(0, len(places), _READ_AGAIN_AT_ONCE):
            some = places[first : first + _READ_AGAIN_AT_ONCE]
            read_again = [(sha256, names[sha256][0][0] or "") for sha256, place in some if place == _AT_SOURCE]
            normalised = self._pool.map(self._read_again, read_again)
            for sha256, place in some:
                if place == _AT_SOURCE:
                    yield sha256, next(normalised)
                elif isinstance(place, str):
                    assert self._reusable is not None
                    yield sha256, self._reusable.read(sha256)
                else:
                    yield sha256, bytes(self._plan.exchange.read(place))

    def _read_again(self, picture: tuple[str, str]) -> bytes | BadImageError:
        sha256, name = picture
        assert self._source is not None
        try:
            source = self._source.read(self._source.find(name))
        except BadImageError:
            source = b""
        if content_hash(source) != sha256:
            raise InputError(f"items.image: {quoted(name)} changed while it was read")
        try:
            return normalise_image(source, self._plan.side, self._plan.format)
        except BadImageError as error:
            return error

    def teardown(self) -> None:
        """Ends the threads and closes the pictures."""
        self._pool.shutdown()
        if self._source is not None:
            self._source.close()
        if self._reusable is not None:
            self._reusable.close()


def _silence_pil() -> None:
    """Its own, later limit on pixels, and oddities in metadata. (Not per picture: threads share the filters.)"""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def store_images(pipeline: beam.Pipeline, plan: ImagePlan) -> PCollection[tuple[int, int, bytes]]:
    """Adds the transforms from picture names to picture shards; they say what was written, see `index_images`."""
    return (
        pipeline
        | "Pictures" >> beam.Create(range(plan.batches), reshuffle=True)
        | "NormaliseImages" >> beam.ParDo(NormaliseImages(plan))
        | "GroupImages" >> beam.GroupByKey()
        | "WriteImages" >> beam.ParDo(WriteImages(plan))
    )
