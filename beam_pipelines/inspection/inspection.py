"""Reads the pages of a dataset once: counts them, and picks some to look at."""

import dataclasses
import hashlib
import heapq
import itertools
from collections.abc import Sequence
from pathlib import Path

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import PRETRAINING, Manifest, Split
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.page_reader import packed_page
from beam_pipelines.format.records import HISTORIES
from beam_pipelines.format.tfrecord import read_records
from beam_pipelines.inspection.figures import facts, figures
from beam_pipelines.inspection.html import ShownPage, history_chart, position_chart, render
from beam_pipelines.inspection.page_statistics import PageStatistics
from beam_pipelines.inspection.shown_pages import picture_places, shown_pages
from beam_pipelines.shell.progress import progress_bar

_BLOCK = 1024  # pages counted at once

Ranked = tuple[int, str, str, bytes]  # better pages first: preference, digest of the page ID, split, record


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a dataset holds.

    Attributes:
        dataset: the directory.
        notice: what is simulated or sampled in it; may be empty.
        figures: a table, its head first: a column per split.
        facts: label and value of what the table does not say.
        total: counts over the splits; over the view for pre-training if nothing else was asked for.
        shown: pages to look at.
    """

    dataset: Path
    notice: str
    figures: list[list[str]]
    facts: list[tuple[str, str]]
    total: PageStatistics
    shown: list[ShownPage]

    def write_html(self, path: Path) -> None:
        """Writes a page for the browser with everything it needs inside; an existing file is replaced."""
        lengths = {name: pages.tolist() for name, pages in self.total.history_lengths.items()}
        charts = [history_chart(lengths), position_chart(self.total.impressions_at, self.total.clicks_at)]
        html = render(self.dataset.resolve().name, self.notice, self.figures, self.facts, charts, self.shown)
        with whole_file(path) as scratch:
            scratch.write_text(html, encoding="utf-8")


def inspect_dataset(dataset: Path, *, split: str | None = None, pages: int = 0) -> Inspection:
    """Counts the pages of a dataset and looks some of them up.

    Args:
        dataset: the directory. All files that are read are verified.
        split: the only split to read, or `pretraining` for the view that an encoder learns on; all if `None`.
        pages: how many to show, in turn from each split.

    Raises:
        InputError: an argument cannot be used.
        ArtifactError: a file of the dataset is missing or damaged.

    Example:
        >>> inspect_dataset(Path("my_dataset"), pages=20).write_html(Path("pages.html"))
    """
    if pages < 0:
        raise InputError(f"`pages` must be at least 0. Received: {pages}")
    manifest = Manifest.read(dataset)
    parts = _parts(manifest)
    names = list(parts) if split is None else [split]
    if not set(names) <= parts.keys():
        raise InputError(f"`split`: {dataset} has no pages in {split} (splits: {', '.join(parts)})")
    tables = [manifest.items.file, manifest.users.file, *([manifest.images.index] if manifest.images else [])]
    manifest.verify(dataset, tables)
    statistics, best = read_pages(dataset, manifest, names, pages)
    counted = [found for name, found in statistics.items() if name != PRETRAINING] or list(statistics.values())
    return Inspection(
        dataset=dataset,
        notice=manifest.notice,
        figures=figures(statistics),
        facts=facts(manifest),
        total=PageStatistics.merged(counted),
        shown=shown_pages(dataset, manifest, choose(best, pages)) if pages else [],
    )


def read_pages(
    dataset: Path, manifest: Manifest, names: Sequence[str], count: int
) -> tuple[dict[str, PageStatistics], dict[str, list[Ranked]]]:
    """Reads all pages of some splits once.

    Args:
        dataset: the directory.
        manifest: its manifest; the shards are verified first.
        names: of the splits, or `pretraining` for the view that an encoder learns on.
        count: pages to choose per split; none of the view.

    Returns:
        By split: the statistics, and the `count` best pages to show. Pages with a click and a history come first, among
        equals the digest of the page ID decides: neither the order of the pages nor the number of shards matters.
    """
    shards = [(name, shard) for name in names for shard in _parts(manifest)[name].shards]
    manifest.verify(dataset, [shard for _, shard in shards])
    has_picture = picture_places(dataset, manifest).column("shard").to_numpy() >= 0
    statistics: dict[str, PageStatistics] = {}
    best: dict[str, list[Ranked]] = {name: [] for name in names if name in manifest.splits}
    with progress_bar(total=sum(shard.records for _, shard in shards), desc="reading pages", unit="page") as progress:
        for name, shard in shards:
            records = read_records(dataset / shard.path)
            while block := list(itertools.islice(records, _BLOCK)):
                pages = [packed_page(record) for record in block]
                counted = PageStatistics.of(pages, has_picture, manifest.users.file.records)
                statistics[name] = PageStatistics.merged(
                    [statistics[name], counted] if name in statistics else [counted]
                )
                if name in best:
                    ranked = (_ranked(name, page, record) for page, record in zip(pages, block, strict=True))
                    best[name] = heapq.nsmallest(count, itertools.chain(best[name], ranked))
                progress.update(len(block))
    return statistics, best


def _parts(manifest: Manifest) -> dict[str, Split]:
    """The splits, and the view for pre-training."""
    view = {PRETRAINING: manifest.pretraining} if manifest.pretraining is not None else {}
    return {**manifest.splits, **view}


def _ranked(split: str, page: dict[str, bytes], record: bytes) -> Ranked:
    clicked = 1 in page["clicked"]
    has_history = any(page[f"{name}_item"] for name in HISTORIES)
    return 2 - clicked - has_history, hashlib.sha256(page["page_id"]).hexdigest(), split, record


def choose(best: dict[str, list[Ranked]], count: int) -> list[tuple[str, bytes]]:
    """Takes `count` pages, in turn from each split; returns split and record, ordered by split."""
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*best.values()))
    chosen = list(itertools.islice((page for page in in_turn if page is not None), count))
    return [(split, record) for name in best for _, _, split, record in chosen if split == name]
