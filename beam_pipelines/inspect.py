"""Prints the figures of a page dataset and shows some of its pages.

Example:
    python -m beam_pipelines.inspect my_dataset --html pages.html
"""

import base64
import hashlib
import heapq
import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image
from tqdm import tqdm

from beam_pipelines.format.manifest import PRETRAINING, SPLITS, Manifest, Split
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.page_reader import decode_page, packed_page
from beam_pipelines.format.records import HISTORIES
from beam_pipelines.format.tfrecord import read_records
from beam_pipelines.inspection.html import (
    ShownCandidate,
    ShownItem,
    ShownPage,
    history_chart,
    position_chart,
    render,
)
from beam_pipelines.inspection.page_statistics import PageStatistics
from beam_pipelines.shell.command import ArgumentParser, CommandError, run_command
from beam_pipelines.shell.report import aligned

DEFAULT_DATASET = Path("artifacts/dataset")
HISTORY_STEPS = 12
_BLOCK = 1024  # pages counted at once
_THUMBNAIL = (150, 150)
_DAY = 86_400_000

Ranked = tuple[int, str, str, bytes]  # better pages first: preference, digest of the page ID, split, record


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
    has_picture = _picture_places(dataset, manifest).column("shard").to_numpy() >= 0
    statistics: dict[str, PageStatistics] = {}
    best: dict[str, list[Ranked]] = {name: [] for name in names if name in manifest.splits}
    with tqdm(total=sum(shard.records for _, shard in shards), desc="reading pages", unit="page") as progress:
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


def figures(statistics: dict[str, PageStatistics]) -> list[list[str]]:
    """The table: a column per split, one of all if there are several, and one of the view for pre-training."""
    columns = {name: counted for name, counted in statistics.items() if name != PRETRAINING}
    if len(columns) > 1:
        columns["all"] = PageStatistics.merged(columns.values())
    if PRETRAINING in statistics:
        columns[PRETRAINING] = statistics[PRETRAINING]
    rows = {
        "users (# User)": lambda s: f"{s.users.sum():,}",
        "items (# Item)": lambda s: f"{s.items.sum():,}",
        "pages": lambda s: f"{s.pages:,}",
        "impressions (# Samples)": lambda s: f"{s.impressions:,}",
        "CTR": lambda s: f"{s.ctr:.4f}",
        "click history (# Hist)": lambda s: f"{s.mean_history('click'):.2f}",
        "payment history": lambda s: f"{s.mean_history('pay'):.2f}",
        "cart": lambda s: f"{s.mean_history('cart'):.2f}",
        "page length (# PV Items)": lambda s: f"{s.mean_candidates:.2f}",
        "pages with both classes": lambda s: f"{s.pages_with_both_classes / s.pages:.1%}",
        "candidates with picture": lambda s: f"{s.impressions_with_picture / s.impressions:.1%}",
        "first day (UTC)": lambda s: _moment(s.first, "D"),
        "last day (UTC)": lambda s: _moment(s.last, "D"),
    }
    return [["", *columns], *([label, *map(figure, columns.values())] for label, figure in rows.items())]


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What the manifest says beyond the pages."""
    images, items = manifest.images, manifest.items.file.records
    stored = f"{images.stored:,} stored, for {images.items_with_image:,} of {items:,} items" if images else "none"
    rejected = {}
    for name, count in manifest.counters.items():
        if name.startswith("rejected."):
            _, table, reason = name.split(".", 2)
            rejected[f"{reason} ({table})"] = count
    view = manifest.pretraining
    learned = "none"
    if view is not None:
        learned = (
            f"{view.kind} view, at most {view.max_candidates} candidates and {view.max_clicks} clicks, "
            f"{view.negative_rate:.0%} of the unclicked"
            + (f", categories {', '.join(view.categories)}" if view.categories else "")
        )
    return [
        ("pre-training", learned),
        ("pictures", stored),
        ("items without picture", _listed(images.missing) if images else "all"),
        ("rejected rows", _listed(rejected)),
    ]


def _listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none"


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
        time=_moment(time, "m").replace("T", " ") + " UTC",
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


def _picture_places(dataset: Path, manifest: Manifest) -> pa.Table:
    """Columns `shard` and `index` by item row, -1 without picture."""
    if manifest.images is None:
        nowhere = np.full(manifest.items.file.records, -1)
        return pa.table({"shard": nowhere, "index": nowhere})
    return pq.read_table(dataset / manifest.images.index.path, columns=["shard", "index"])


def _thumbnails(dataset: Path, manifest: Manifest, rows: Sequence[int]) -> dict[int, str]:
    """Small pictures of those item rows that have one, as data URIs."""
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, place in zip(
        rows, _picture_places(dataset, manifest).take(pa.array(rows, pa.int64())).to_pylist(), strict=True
    ):
        if place["shard"] >= 0:
            places[place["shard"]].append((row, place["index"]))
    pictures = {}
    for shard, wanted in places.items():
        file = manifest.images.shards[shard]
        manifest.verify(dataset, [file])
        reader = ArrayRecordReader(str(dataset / file.path))
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


def _moment(milliseconds: int, unit: str) -> str:
    return str(np.datetime_as_string(np.datetime64(milliseconds, "ms"), unit=unit))


def _age(milliseconds: int) -> str:
    """How long before, in the largest unit that fits."""
    for unit, length in (("d", _DAY), ("h", _DAY // 24), ("min", 60_000)):
        if milliseconds >= length:
            return f"{milliseconds // length:,} {unit}"
    return f"{milliseconds // 1000} s"


def _check_output(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise CommandError(f"--html must be a file to write. Received the directory {path}")
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists; pass --overwrite to replace it")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("dataset", type=Path, nargs="?", default=DEFAULT_DATASET, help="page dataset, from beam_pipelines.build")
    add("--split", choices=(*SPLITS, PRETRAINING), help="only this one; all of them if not given")
    add("--html", type=Path, metavar="FILE", help="page for the browser to write, with everything it needs inside")
    add("--pages", type=int, default=20, help="how many pages --html shows")
    parser.add_overwrite()
    return parser


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the command; see `--help`."""
    options = _parser().parse_args(argv)
    if options.pages < 0:
        raise CommandError(f"--pages must be at least 0. Received: {options.pages}")
    if options.html is not None:
        _check_output(options.html, options.overwrite)
    manifest = Manifest.read(options.dataset)
    parts = _parts(manifest)
    names = list(parts) if options.split is None else [options.split]
    if not set(names) <= parts.keys():
        raise CommandError(f"--split: {options.dataset} has no pages in {options.split} (splits: {', '.join(parts)})")
    tables = [manifest.items.file, manifest.users.file, *([manifest.images.index] if manifest.images else [])]
    manifest.verify(options.dataset, tables)
    statistics, best = read_pages(options.dataset, manifest, names, options.pages if options.html else 0)
    table = figures(statistics)
    print(aligned(table))
    for label, value in [*facts(manifest), *([("notice", manifest.notice)] if manifest.notice else [])]:
        print(f"{label}: {value}", flush=True)
    whole = [counted for name, counted in statistics.items() if name != PRETRAINING] or list(statistics.values())
    total = PageStatistics.merged(whole)
    if options.html is None:
        return f"inspected: {total.pages} pages in {options.dataset}"
    shown = shown_pages(options.dataset, manifest, choose(best, options.pages))
    charts = [
        history_chart({name: lengths.tolist() for name, lengths in total.history_lengths.items()}),
        position_chart(total.impressions_at, total.clicks_at),
    ]
    html = render(options.dataset.resolve().name, manifest.notice, table, facts(manifest), charts, shown)
    with whole_file(options.html) as scratch:
        scratch.write_text(html, encoding="utf-8")
    return f"inspected: {total.pages} pages in {options.dataset}; {len(shown)} of them shown in {options.html}"


if __name__ == "__main__":
    run_command(main)
