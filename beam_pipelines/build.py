"""Builds a page dataset from logs.

Example:
    python -m beam_pipelines.build --logs my_logs --output my_dataset --split-by-time 2026-03-01,2026-03-08
"""

import argparse
import contextlib
import itertools
import json
import logging
import re
import shutil
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from beam_pipelines.format.manifest import (
    FORMAT,
    SPLITS,
    File,
    Manifest,
    PretrainingView,
    Source,
    Split,
    Window,
    file_sha256,
    ids_sha256,
)
from beam_pipelines.format.manifest import Table as TableEntry
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.format.records import FEATURES, HISTORIES, SCHEMA_HASH
from beam_pipelines.images.index import index_images, kept_hashes
from beam_pipelines.images.transforms import store_images
from beam_pipelines.logs.catalog import build_table
from beam_pipelines.logs.rejections import check_fraction
from beam_pipelines.logs.scan import Scan, scan
from beam_pipelines.logs.tables import Table, TimestampUnit, find_tables, parse_columns
from beam_pipelines.logs.values import parse_moment
from beam_pipelines.pages.rules import PageRules, PretrainingRules
from beam_pipelines.pages.transforms import (
    PRETRAINING,
    RESULTS,
    SCRATCH,
    PagePlan,
    build_pages,
    page_parts,
    write_dead_letters,
)
from beam_pipelines.runners import make_runner
from beam_pipelines.shell.command import ArgumentParser, CommandError, require_directory, run_command

DEFAULT_LOGS = Path("artifacts/sample_logs")
DEFAULT_OUTPUT = Path("artifacts/dataset")
BYTES_PER_ROW = 400
"""Memory that building a bucket takes per impression and event; measured, with a margin."""
ROWS_PER_BUCKET = 250_000
"""More at once are not built faster; fewer workers would find something to do."""
IMAGES_PER_SHARD = 8192


def build_dataset(
    directory: Path,
    options: argparse.Namespace,
    tables: Mapping[str, Table],
    rules: PageRules,
    pretraining: PretrainingRules,
    notice: str,
    pipeline: beam.Pipeline,
) -> Manifest:
    """Builds a dataset into an empty directory, the manifest last.

    Args:
        directory: the directory.
        options: of the command.
        tables: what `logs.find_tables` found.
        rules, pretraining: what belongs to pages.
        notice: see `Manifest`.
        pipeline: an empty pipeline.
    """
    versions = {file: _version(file) for table in tables.values() for file in table.files}
    seen = scan([tables[name] for name in ("impressions", "events") if name in tables])
    unit = options.timestamp_unit or seen.units.detect()
    if options.timestamp_unit is None:
        print(f"timestamp unit: {unit} (detected; --timestamp-unit overrides)", flush=True)
    counters: Counter[str] = Counter({f"rows.{name}": rows for name, rows in seen.rows.items()})
    previous = Manifest.read(options.previous) if options.previous else None
    items, users, image_of_item = _write_catalog(directory, tables, seen, unit, counters, options.previous, previous)

    kept = kept_hashes(options.previous, image_of_item, options.image_side, options.image_format)
    names = sorted({name for name in image_of_item if name})
    hashes = sorted(set(kept.to_pylist()) - {""})
    images = options.logs / "images"
    if not images.is_dir() and any("://" not in name for name in names):
        raise CommandError(
            f"{options.logs}: items.image names {len(names)} pictures, but there is no directory images/; "
            "add it, or leave the column empty"
        )
    plan = PagePlan(
        directory=directory,
        tables=tables,
        unit=unit,
        buckets=options.page_buckets or _buckets(sum(seen.rows.values()), options.bucket_memory_mb),
        rules=rules,
        pretraining=pretraining,
        eligible=_eligible(directory / items.file.path, image_of_item, kept, pretraining.categories),
    )
    image_shards = -(-(len(names) + len(hashes)) // IMAGES_PER_SHARD)
    build_pages(pipeline, plan)
    form = (options.image_side, options.image_format)
    if image_shards:
        store_images(pipeline, directory, images, names, image_shards, *form, previous=options.previous, kept=hashes)
    with _progress(directory, len(page_parts(plan)) + 2 * plan.buckets + image_shards):
        try:
            _run(pipeline)
        finally:
            _check_unchanged(versions)

    _check_complete(directory)
    _count_rejected(directory, options.max_bad_fraction, counters)
    shards, max_candidates = _read_results(directory, counters)
    rates = {name: 1.0 for name in shards} | {"train": rules.train_negatives}
    if pretraining.kind == "page":
        rates[PRETRAINING] = pretraining.negatives
    whole = {name: _split(found, rates[name]) for name, found in shards.items()}
    view = whole.pop(PRETRAINING, None)
    if not whole:
        raise CommandError(f"{options.logs}: no page in {seen.rows['impressions']} rows of impressions")
    stored = None
    if image_shards:
        stored = index_images(
            directory, image_of_item, options.image_format, options.max_bad_fraction, kept=kept, counters=counters
        )
    shutil.rmtree(directory / RESULTS)
    shutil.rmtree(directory / SCRATCH)
    manifest = Manifest(
        format=FORMAT,
        schema_hash=SCHEMA_HASH,
        features=[f"{feature.name} {feature.kind} {feature.group}" for feature in FEATURES],
        notice=notice,
        options={
            "split_by_time": rules.split_times,
            "click_days": rules.click_days,
            "pay_days": rules.pay_days,
            "same_category_clicks": rules.same_category_clicks,
            "max_candidates": rules.max_candidates,
            "attribute_clicks": rules.attribution_hours,
            "previous": previous and previous.digest(),
            "timestamp_unit": unit,
            "columns": sorted(options.columns),
            "page_buckets": plan.buckets,
            "image_side": options.image_side,
            "image_format": options.image_format,
        },
        sources=[_source(options.logs, file) for table in tables.values() for file in table.files],
        splits=whole,
        pretraining=None
        if view is None
        else PretrainingView(
            **dict(view),
            kind=pretraining.kind,
            max_candidates=pretraining.candidates,
            max_clicks=pretraining.clicks,
            categories=list(pretraining.categories),
        ),
        items=items,
        users=users,
        images=stored,
        max_candidates=max_candidates,
        counters=dict(sorted(counters.items())),
    )
    manifest.write(directory)
    return manifest


def _buckets(rows: int, memory_mb: int) -> int:
    """As many as keep a bucket in its memory, and at least a few, so that workers share the work."""
    in_memory = (memory_mb << 20) // BYTES_PER_ROW
    return min(4096, max(4, -(-rows // min(in_memory, ROWS_PER_BUCKET))))


def _eligible(
    items: Path, image_of_item: Sequence[str | None], kept: pa.Array, categories: Sequence[str]
) -> np.ndarray:
    """Which items pre-training sees: those that name a picture or keep one, of some categories.

    Raises:
        CommandError: no item has one of the categories.
    """
    eligible = np.array([bool(name) for name in image_of_item], bool) | pc.not_equal(kept, "").to_numpy(False)
    if categories:
        category = pq.read_table(items, columns=["category"])["category"]
        if unknown := sorted(set(categories) - set(pc.unique(category).to_pylist())):
            raise CommandError(f"--pretraining-categories: no item has the category {unknown[0]!r}")
        eligible &= pc.is_in(category, pa.array(categories)).to_numpy()
    return eligible


def _write_catalog(
    directory: Path,
    tables: Mapping[str, Table],
    seen: Scan,
    unit: TimestampUnit,
    counters: Counter[str],
    previous: Path | None,
    manifest: Manifest | None,
) -> tuple[TableEntry, TableEntry, list[str | None]]:
    """Writes the item and user tables; returns their entries and what `index_images` calls `image_of_item`."""
    entries = {}
    image_of_item: list[str | None] = []
    for name, ids in (("items", seen.item_ids), ("users", seen.user_ids)):
        earlier = None
        if manifest is not None:
            file = getattr(manifest, name).file
            manifest.verify(previous, [file])
            earlier = pq.read_table(previous / file.path)
        table, rejected = build_table(name, tables.get(name), ids, unit, counters, earlier)
        if rejected:
            write_dead_letters(directory, name, [row.to_json() for row in rejected])
        if name == "items":
            image_of_item = table["image"].to_pylist()
            table = table.drop_columns("image")
        path = f"{name}/{name}.parquet"
        (directory / name).mkdir()
        pq.write_table(table, directory / path)
        entries[name] = TableEntry(
            file=File.of(directory, path, table.num_rows), ids_sha256=ids_sha256(table.column(0).to_pylist())
        )
    return entries["items"], entries["users"], image_of_item


@contextlib.contextmanager
def _progress(directory: Path, total: int) -> Iterator[None]:
    """A bar of the steps that are done. Works with any runner: it watches the files that the transforms leave."""
    for name in (RESULTS, SCRATCH):
        (directory / name).mkdir()
    finished = threading.Event()
    with tqdm(total=total, desc="building pages and pictures", unit="step") as bar:

        def watch() -> None:
            while not finished.wait(0.5):
                done = sum(1 for _ in (directory / RESULTS).glob("[!.]*"))
                done += sum(1 for _ in (directory / SCRATCH).glob("impressions-*"))
                done += sum(1 for _ in (directory / SCRATCH).glob("events-*"))
                done += sum(1 for _ in (directory / SCRATCH).glob("prepared-*"))
                bar.update(min(done, total) - bar.n)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
            bar.update(total - bar.n)  # buckets without a user leave no file
        finally:
            finished.set()
            watcher.join()


def _run(pipeline: beam.Pipeline) -> None:
    """Runs a pipeline. What a worker raises comes back wrapped, or as text only; a `CommandError` is found in it."""
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        text = "".join(traceback.format_exception(error)).replace("\\n", "\n")
        if found := re.search(r"\bCommandError: (.+?)(?: \[while running.*)?$", text, re.MULTILINE):
            raise CommandError(found[1]) from error
        if full := re.search(r"No space left on device|Disk quota exceeded", text):
            raise CommandError(f"--output: {full[0]}; rows and pages are stored there while they are built") from error
        raise


def _check_complete(directory: Path) -> None:
    """Compares what was prepared with what was written: a shared file system may show old listings.

    Raises:
        CommandError: some of it cannot be seen.
    """
    prepared = {path.name.removeprefix("prepared-") for path in (directory / SCRATCH).glob("prepared-*")}
    written = {path.stem.removeprefix("pages-") for path in (directory / RESULTS).glob("pages-*.json")}
    if prepared != written:
        raise CommandError(
            f"{len(prepared)} buckets were prepared and {len(written)} written, as seen from here: the workers do not "
            "share the output's file system, or it shows old listings"
        )


def _read_results(directory: Path, counters: Counter[str]) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """What the buckets say of their shards, by split, and the largest number of candidates on a whole page."""
    shards: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((directory / RESULTS).glob("pages-*.json")):
        result = json.loads(path.read_text())
        counters.update(result["counters"])
        for name, shard in result["shards"].items():
            shards.setdefault(name, []).append(shard)
    shards = {name: shards[name] for name in (*SPLITS, PRETRAINING) if name in shards}
    whole = [shard for name, found in shards.items() for shard in found if name != PRETRAINING]
    return shards, max((shard["max_candidates"] for shard in whole), default=0)


def _split(shards: list[dict[str, Any]], negative_rate: float) -> Split:
    lengths = {
        name: [
            sum(column) for column in itertools.zip_longest(*(s["history_lengths"][name] for s in shards), fillvalue=0)
        ]
        for name in HISTORIES
    }
    return Split(
        pages=sum(shard["file"]["records"] for shard in shards),
        impressions=sum(shard["impressions"] for shard in shards),
        clicks=sum(shard["clicks"] for shard in shards),
        window=Window(first=min(shard["first"] for shard in shards), last=max(shard["last"] for shard in shards)),
        negative_rate=negative_rate,
        history_lengths=lengths,
        shards=[File(**shard["file"]) for shard in shards],
    )


def _count_rejected(directory: Path, max_fraction: float, counters: Counter[str]) -> None:
    """Counts dead letters by table and reason.

    Raises:
        CommandError: a table has too many.
    """
    for path in sorted((directory / "dead_letters").glob("*.jsonl")):
        with open(path) as lines:
            reasons = Counter(json.loads(line)["reason"] for line in lines)
        table, bad = path.stem, reasons.total()
        counters.update({f"rejected.{table}.{reason}": count for reason, count in reasons.items()})
        check_fraction(f"rows of {table}", bad, counters[f"rows.{table}"], reasons, max_fraction)


def _read_notice(logs: Path) -> str:
    path = logs / "logs.json"
    if not path.is_file():
        return ""
    try:
        notice = json.loads(path.read_text())["notice"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f'{path} must be {{"notice": "what is simulated or sampled"}}') from error
    return str(notice)


def _version(file: Path) -> tuple[int, int] | None:
    """What a version of a file is known by: size and time of change; `None` if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size, file.stat().st_mtime_ns
    return None


def _check_unchanged(versions: Mapping[Path, tuple[int, int] | None]) -> None:
    """Logs are read twice, and what is read must be one thing.

    Raises:
        CommandError: a file has changed.
    """
    for file, version in versions.items():
        if _version(file) != version:
            raise CommandError(f"{file} changed while it was read; build from logs that nobody writes to")


def _source(logs: Path, file: Path) -> Source:
    return Source(path=file.relative_to(logs).as_posix(), bytes=file.stat().st_size, sha256=file_sha256(file))


def _parse_split_times(text: str) -> tuple[int, int]:
    moments = [parse_moment(part.strip()) for part in text.split(",")]
    if len(moments) != 2 or None in moments or moments[0] > moments[1]:
        raise CommandError(
            "--split-by-time must be two moments, PRETRAIN_END,TRAIN_END, the earlier first, as ISO dates or times or "
            f"epoch numbers, for example 2026-03-01,2026-03-08. Received: {text}"
        )
    return moments[0], moments[1]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__.splitlines()[0] + " Options that are not listed here are handed to Beam.")
    add = parser.add_argument
    add("--logs", type=Path, default=DEFAULT_LOGS, help="log directory; the default is simulated if it does not exist")
    add("--output", type=Path, default=DEFAULT_OUTPUT, help="dataset directory to write")
    add("--runner", default="DirectRunner", help="DirectRunner (in this process), FlinkRunner, SparkRunner, ...")
    add("--split-by-time", metavar="PRETRAIN_END,TRAIN_END", help="pages before the first moment are for pre-training, "
        "before the second for training the ranker, the rest for testing")  # fmt: skip
    add("--columns", nargs="+", default=[], metavar="TABLE.COLUMN=NAME", help="columns that have other names")
    add("--timestamp-unit", choices=("seconds", "milliseconds", "iso"), help="detected if not given")
    add("--image-side", type=int, default=256, help="pixels of a picture's shorter side, at most")
    add("--image-format", choices=("jpeg", "webp"), default="jpeg", help="encoding of stored pictures")
    add("--max-bad-fraction", type=float, default=0.1, help="bad rows of a table, or bad pictures, that are tolerated")
    add("--previous", type=Path, metavar="DATASET", help="an earlier dataset, for daily builds: item and user rows "
        "keep their numbers, new ones are appended")  # fmt: skip
    add("--click-days", type=int, default=183, help="how far back click histories reach")
    add("--pay-days", type=int, default=730, help="how far back payment histories reach")
    add("--same-category-clicks", action="store_true", help="click histories keep the page's category only")
    add("--attribute-clicks", type=float, metavar="HOURS", help="a click event makes the impression before it clicked, "
        "if it is at most this much later; the column `clicked` may then be missing")  # fmt: skip
    add("--max-candidates", type=int, default=1000, help="candidates kept per page, the first ones")
    add("--train-negatives", type=float, default=1.0, metavar="RATE", help="share of the unclicked candidates of train "
        "pages that is kept")  # fmt: skip
    add("--pretraining-view", choices=("page", "causal"), default="page", help="what the encoder learns on: pretrain "
        "pages, trimmed; or every click once as the target of the clicks before it")  # fmt: skip
    add("--pretraining-negatives", type=float, default=0.2, metavar="RATE", help="share of unclicked candidates kept "
        "there")  # fmt: skip
    add("--pretraining-candidates", type=int, default=5, help="candidates per page there, clicked ones first")
    add("--pretraining-clicks", type=int, default=5, help="history clicks per page there, the latest")
    add("--pretraining-categories", nargs="+", default=[], metavar="CATEGORY", help="keeps these items only there")
    add("--bucket-memory-mb", type=int, default=512, help="memory for building one bucket of users; decides how many "
        "buckets there are")  # fmt: skip
    add("--page-buckets", type=int, help="number of buckets, and of shards per split, whatever the memory")
    parser.add_overwrite()
    return parser


def _check(options: argparse.Namespace) -> None:
    """Checks the numbers among the options."""
    at_least_1 = "image_side click_days pay_days max_candidates pretraining_candidates pretraining_clicks"
    for name in (*at_least_1.split(), "bucket_memory_mb", "page_buckets"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise CommandError(f"--{name.replace('_', '-')} must be at least 1. Received: {value}")
    for name in ("max_bad_fraction", "train_negatives", "pretraining_negatives"):
        if not 0 <= getattr(options, name) <= 1:
            raise CommandError(
                f"--{name.replace('_', '-')} must be between 0 and 1. Received: {getattr(options, name)}"
            )
    if options.attribute_clicks is not None and not 0 <= options.attribute_clicks < 1e6:
        raise CommandError(f"--attribute-clicks must be a number of hours. Received: {options.attribute_clicks}")


def _page_rules(options: argparse.Namespace, has_split: bool) -> tuple[PageRules, PretrainingRules]:
    """Brings together what options say of pages."""
    split_times = _parse_split_times(options.split_by_time) if options.split_by_time else None
    if options.pretraining_view == "causal" and split_times is None:
        raise CommandError("--pretraining-view causal needs --split-by-time, to know which clicks are for pre-training")
    if not has_split and split_times is None:
        raise CommandError(
            "pages belong to no split: pass --split-by-time PRETRAIN_END,TRAIN_END, or add a column `split` to "
            f"impressions with {', '.join(SPLITS)}"
        )
    rules = PageRules(
        split_times=None if has_split else split_times,
        click_days=options.click_days,
        pay_days=options.pay_days,
        same_category_clicks=options.same_category_clicks,
        attribution_hours=options.attribute_clicks,
        train_negatives=options.train_negatives,
        max_candidates=options.max_candidates,
    )
    pretraining = PretrainingRules(
        kind=options.pretraining_view,
        negatives=options.pretraining_negatives,
        candidates=options.pretraining_candidates,
        clicks=options.pretraining_clicks,
        categories=tuple(options.pretraining_categories),
        end=split_times[0] if split_times else 0,
    )
    return rules, pretraining


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the command; see `--help`."""
    options, beam_options = _parser().parse_known_args(argv)
    runner, pipeline_options = make_runner(options.runner, beam_options)
    _check(options)
    if options.split_by_time:
        _parse_split_times(options.split_by_time)  # before any work
    if options.output.resolve().is_relative_to(options.logs.resolve()):
        raise CommandError(f"--output: {options.output} is inside {options.logs}, which is read; choose another place")
    with whole_directory(options.output, overwrite=options.overwrite, inputs=[options.logs]) as directory:
        if options.logs == DEFAULT_LOGS and not options.logs.exists():
            from beam_pipelines.datasets import sample

            print(f"{options.logs} does not exist: simulating the sample first", flush=True)
            sample.main(["--output", str(options.logs)])
        require_directory(options.logs, "--logs", "an adapter in beam_pipelines.datasets")
        if options.previous:
            Manifest.read(require_directory(options.previous, "--previous", "an earlier build"))
        options.logs = options.logs.resolve()  # workers may have another working directory
        optional = ("clicked",) if options.attribute_clicks is not None else ()
        tables = find_tables(options.logs, parse_columns(options.columns), optional)
        notice = _read_notice(options.logs)
        rules, pretraining = _page_rules(options, "split" in tables["impressions"].columns)
        print(f"running on {type(runner).__name__}", flush=True)
        logging.getLogger("apache_beam").setLevel(logging.WARNING)
        pipeline = beam.Pipeline(runner=runner, options=pipeline_options)
        manifest = build_dataset(directory.resolve(), options, tables, rules, pretraining, notice, pipeline)
    return _summary(manifest, options.output)


def _summary(manifest: Manifest, output: Path) -> str:
    if manifest.notice:
        print(f"notice: {manifest.notice}", flush=True)
    pages = ", ".join(f"{split.pages} {name}" for name, split in manifest.splits.items())
    pictures = manifest.images.stored if manifest.images else 0
    rejected = sum(count for name, count in manifest.counters.items() if name.startswith("rejected."))
    return f"dataset: pages {pages}; {pictures} pictures; {rejected} rejected rows; in {output}"


if __name__ == "__main__":
    run_command(main)
