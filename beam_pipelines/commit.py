"""The last step of a build: checks what workers have written, writes the manifest, and makes the dataset appear."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsIter, PCollection

from beam_pipelines.exchange import DIFFERENT_WORKERS, Exchange
from beam_pipelines.format.contents import StoredFile
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import File, Images, Join, Manifest, PretrainingView
from beam_pipelines.format.outputs import Attempt, commit, is_committed, whole_file
from beam_pipelines.images.index import NOT_REFUSED, index_images
from beam_pipelines.logs.directory import LogDirectory
from beam_pipelines.logs.rejections import DeadLetters, count_dead_letters
from beam_pipelines.options import BuildOptions
from beam_pipelines.pages.results import put_pages_together, what_is_odd
from beam_pipelines.pages.rules import PageRules
from beam_pipelines.pages.transforms import WrittenPages
from beam_pipelines.picture_plan import PicturePlan


class Draft(NamedTuple):
    """A dataset before its pages and pictures are written.

    Attributes:
        attempt: the output.
        manifest: as far as it is known.
        logs: what is read.
        options: of the build.
        rules: what pages are made by.
        dead_letters: those of the item and user tables.
        pictures: which picture each item has.
        has_pictures: whether some are to be stored.
        exchange: what was moved by; closed in the end.
        told: a file for what whoever waits for the end should be told; `None` if nobody does.
    """

    attempt: Attempt
    manifest: Manifest
    logs: LogDirectory
    options: BuildOptions
    rules: PageRules
    dead_letters: list[DeadLetters]
    pictures: PicturePlan
    has_pictures: bool
    exchange: Exchange
    told: Location | None


class CommitDataset(beam.DoFn):
    """Makes the dataset appear.

    It may run again after it has succeeded: engines repeat what they have not heard of.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def process(
        self,
        _: None,
        rows: Iterable[int],
        prepared: Iterable[tuple[int, int]],
        buckets: Iterable[dict[str, Any]],
        dead_letters: Iterable[DeadLetters],
        pictures: Iterable[tuple[int, int, bytes]] = (),
    ) -> None:
        """Checks, writes the manifest, commits."""
        draft = self._draft
        if is_committed(draft.attempt):
            return
        told: list[str] = []
        try:
            _check_complete(sum(rows), dict(prepared), buckets)
            manifest, files = _finish(draft, buckets, dead_letters, pictures, told)
        finally:
            if draft.told is not None:
                with whole_file(draft.told) as path:
                    path.write_text(json.dumps(told))
        draft.logs.check_unchanged()
        files = [*files, manifest.write(draft.attempt.directory)]
        draft.pictures.remove()
        draft.exchange.close()
        commit(draft.attempt, [StoredFile(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in files])


def add_commit(
    pipeline: beam.Pipeline, draft: Draft, pages: WrittenPages, pictures: PCollection[tuple[int, int, bytes]] | None
) -> None:
    """Adds the last step.

    Args:
        pipeline: the pipeline.
        draft: the dataset so far.
        pages: from `build_pages`.
        pictures: from `store_images`, if there are any.
    """
    written = [AsIter(of) for of in pages] + ([AsIter(pictures)] if pictures is not None else [])
    _ = pipeline | "Once" >> beam.Create([None]) | "CommitDataset" >> beam.ParDo(CommitDataset(draft), *written)


def _check_complete(rows: int, prepared: Mapping[int, int], buckets: Iterable[dict[str, Any]]) -> None:
    """Compares what was read with what was prepared, and that with what was written: a runner may lose elements."""
    written = {result["bucket"] for result in buckets}
    if rows != sum(prepared.values()) or prepared.keys() != written:
        raise InputError(
            f"`runner`: of {rows} rows {sum(prepared.values())} came to {len(prepared)} buckets, of which "
            f"{len(written)} were written: this runner loses elements"
        )


def _finish(
    draft: Draft,
    buckets: Iterable[dict[str, Any]],
    dead_letters: Iterable[DeadLetters],
    pictures: Iterable[tuple[int, int, bytes]],
    told: list[str],
) -> tuple[Manifest, list[File]]:
    """The manifest, and the files that it speaks of; adds to `told`."""
    options, rules, manifest = draft.options, draft.rules, draft.manifest
    counters = Counter(manifest.counters)
    view_negatives = options.pretraining_negatives if options.pretraining_view == "page" else 1.0
    pages = put_pages_together(buckets, counters, rules, view_negatives, options.max_bad_fraction)
    rejected = _one_of_each_table([*draft.dead_letters, *dead_letters])
    count_dead_letters(rejected, counters, options.max_bad_fraction)
    told += what_is_odd(pages, counters, rules)
    if not pages.splits:
        raise InputError(f"{draft.logs.path}: no page in {counters['rows.impressions']} rows of impressions")
    images = None
    if draft.has_pictures:
        images = index_images(
            draft.attempt.directory,
            pictures,
            draft.pictures.item_column("image"),
            options.image_format,
            options.max_bad_fraction,
            source=draft.logs.images,
            kept=draft.pictures.item_column("kept"),
            counters=counters,
            told=told,
        )
    view = None
    if pages.view is not None:
        view = PretrainingView(
            **dict(pages.view),
            kind=options.pretraining_view,
            max_candidates=options.pretraining_candidates,
            max_clicks=options.pretraining_clicks,
            categories=list(options.pretraining_categories),
        )
    manifest = manifest.model_copy(
        update={
            "splits": pages.splits,
            "pretraining": view,
            "images": images,
            "max_candidates": pages.max_candidates,
            "counters": dict(sorted(counters.items())),
            "joins": manifest.joins | _joined_pictures(images),
        }
    )
    files = [manifest.items.file, manifest.users.file, *(letters.file for letters in rejected)]
    for shards in (*pages.splits.values(), view, images):
        files += shards.shards if shards is not None else []
    return manifest, files + ([images.index] if images is not None else [])


def _one_of_each_table(dead_letters: Sequence[DeadLetters]) -> list[DeadLetters]:
    """Engines may write one twice."""
    by_table: dict[str, DeadLetters] = {}
    for letters in dead_letters:
        if by_table.setdefault(letters.table, letters).file != letters.file:
            raise InputError(f"{letters.file.path} was written twice, and differently: {DIFFERENT_WORKERS}")
    return list(by_table.values())


def _joined_pictures(images: Images | None) -> dict[str, Join]:
    if images is None:
        return {}
    stored = images.items_with_image
    named = stored + sum(count for reason, count in images.missing.items() if reason not in NOT_REFUSED)
    return {"items.pictures": Join(rows=named, joined=stored, ids=named, joined_ids=stored)}
