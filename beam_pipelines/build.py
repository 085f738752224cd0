"""Builds a page dataset from logs.

Example:
    python -m beam_pipelines.build --logs my_logs --output my_dataset --split-by-time 2026-03-01,2026-03-08
"""

import argparse
import contextlib
import json
import logging
import re
import shutil
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq
from tqdm import tqdm

from beam_pipelines.catalog import build_table
from beam_pipelines.command import ArgumentParser, CommandError, require_directory, run_command, whole_directory
from beam_pipelines.image_index import index_images
from beam_pipelines.image_transforms import store_images
from beam_pipelines.logs import Table, TimestampUnit, find_tables, parse_columns
from beam_pipelines.manifest import (
    FORMAT,
    SPLITS,
    File,
    Manifest,
    Source,
    Split,
    Window,
    file_sha256,
    ids_sha256,
)
from beam_pipelines.manifest import Table as TableEntry
from beam_pipelines.page_transforms import RESULTS, build_pages, write_dead_letters
from beam_pipelines.records import SCHEMA_HASH
from beam_pipelines.rejections import check_fraction
from beam_pipelines.runners import make_runner
from beam_pipelines.scan import Scan, scan
from beam_pipelines.values import parse_moment

DEFAULT_LOGS = Path("artifacts/sample_logs")
DEFAULT_OUTPUT = Path("artifacts/dataset")
IMPRESSIONS_PER_BUCKET = 50_000
IMAGES_PER_SHARD = 8192


def build_dataset(
    directory: Path,
    options: argparse.Namespace,
    tables: Mapping[str, Table],
    split_times: tuple[int, int] | None,
    notice: str,
    pipeline: beam.Pipeline,
) -> Manifest:
    """Builds a dataset into an empty directory, the manifest last.

    Args:
        directory: the directory.
        options: of the command.
        tables: what `logs.find_tables` found.
        split_times: see `pages.build_bucket`.
        notice: see `Manifest`.
        pipeline: an empty pipeline.
    """
    seen = scan([tables[name] for name in ("impressions", "events") if name in tables])
    unit = options.timestamp_unit or seen.units.detect()
    if options.timestamp_unit is None:
        print(f"timestamp unit: {unit} (detected; --timestamp-unit overrides)", flush=True)
    counters: Counter[str] = Counter({f"rows.{name}": rows for name, rows in seen.rows.items()})
    items, users, image_of_item = _write_catalog(directory, tables, seen, unit, counters)

    names = sorted(set(image_of_item) - {""})
    images = options.logs / "images"
    if not images.is_dir() and any("://" not in name for name in names):
        raise CommandError(
            f"{options.logs}: items.image names {len(names)} pictures, but there is no directory images/; "
            "add it, or leave the column empty"
        )
    buckets = options.page_buckets or min(4096, max(4, -(-seen.rows["impressions"] // IMPRESSIONS_PER_BUCKET)))
    image_shards = -(-len(names) // IMAGES_PER_SHARD)
    build_pages(pipeline, directory, tables, unit, buckets, split_times)
    if names:
        store_images(pipeline, directory, images, names, image_shards, options.image_side, options.image_format)
    with _progress(directory / RESULTS, buckets + image_shards):
        _run(pipeline)

    _count_rejected(directory, options.max_bad_fraction, counters)
    splits, max_candidates = _read_splits(directory, counters)
    if not splits:
        raise CommandError(f"{options.logs}: no page in {seen.rows['impressions']} rows of impressions")
    stored = index_images(directory, image_of_item, options.image_format, options.max_bad_fraction) if names else None
    shutil.rmtree(directory / RESULTS)
    manifest = Manifest(
        format=FORMAT,
        schema_hash=SCHEMA_HASH,
        notice=notice,
        options={
            "split_by_time": split_times,
            "timestamp_unit": unit,
            "columns": sorted(options.columns),
            "page_buckets": buckets,
            "image_side": options.image_side,
            "image_format": options.image_format,
        },
        sources=[_source(options.logs, file) for table in tables.values() for file in table.files],
        splits=splits,
        items=items,
        users=users,
        images=stored,
        max_candidates=max_candidates,
        counters=dict(sorted(counters.items())),
    )
    manifest.write(directory)
    return manifest


def _write_catalog(
    directory: Path, tables: Mapping[str, Table], seen: Scan, unit: TimestampUnit, counters: Counter[str]
) -> tuple[TableEntry, TableEntry, list[str]]:
    """Writes the item and user tables; returns their entries and the picture that each item row names."""
    entries = {}
    image_of_item: list[str] = []
    for name, ids in (("items", seen.item_ids), ("users", seen.user_ids)):
        table, rejected = build_table(name, tables.get(name), ids, unit, counters)
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
def _progress(results: Path, total: int) -> Iterator[None]:
    """A bar of the shards that are done. Works with any runner: it watches the files that the transforms leave."""
    results.mkdir()
    finished = threading.Event()
    with tqdm(total=total, desc="building pages and pictures", unit="shard") as bar:

        def watch() -> None:
            while not finished.wait(0.5):
                bar.update(sum(1 for path in results.iterdir() if not path.name.startswith(".")) - bar.n)

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
        raise


def _read_splits(directory: Path, counters: Counter[str]) -> tuple[dict[str, Split], int]:
    """Puts together what the buckets say of their shards."""
    shards: dict[str, list[dict]] = {name: [] for name in SPLITS}
    for path in sorted((directory / RESULTS).glob("pages-*.json")):
        result = json.loads(path.read_text())
        counters.update(result["counters"])
        for name, shard in result["shards"].items():
            shards[name].append(shard)
    splits = {
        name: Split(
            pages=sum(shard["file"]["records"] for shard in found),
            impressions=sum(shard["impressions"] for shard in found),
            clicks=sum(shard["clicks"] for shard in found),
            window=Window(first=min(shard["first"] for shard in found), last=max(shard["last"] for shard in found)),
            shards=[File(**shard["file"]) for shard in found],
        )
        for name, found in shards.items()
        if found
    }
    return splits, max((shard["max_candidates"] for found in shards.values() for shard in found), default=0)


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
    add("--page-buckets", type=int, help="shards per split; chosen by the number of impressions if not given")
    parser.add_overwrite()
    return parser


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the command; see `--help`."""
    options, beam_options = _parser().parse_known_args(argv)
    runner, pipeline_options = make_runner(options.runner, beam_options)
    if options.image_side < 1:
        raise CommandError(f"--image-side must be at least 1. Received: {options.image_side}")
    if options.page_buckets is not None and options.page_buckets < 1:
        raise CommandError(f"--page-buckets must be at least 1. Received: {options.page_buckets}")
    if not 0 <= options.max_bad_fraction <= 1:
        raise CommandError(f"--max-bad-fraction must be between 0 and 1. Received: {options.max_bad_fraction}")
    split_times = _parse_split_times(options.split_by_time) if options.split_by_time else None
    with whole_directory(options.output, overwrite=options.overwrite) as directory:
        if options.logs == DEFAULT_LOGS and not options.logs.exists():
            from beam_pipelines.datasets import sample

            print(f"{options.logs} does not exist: simulating the sample first", flush=True)
            sample.main(["--output", str(options.logs)])
        require_directory(options.logs, "--logs", "an adapter in beam_pipelines.datasets")
        options.logs = options.logs.resolve()  # workers may have another working directory
        tables = find_tables(options.logs, parse_columns(options.columns))
        notice = _read_notice(options.logs)
        if "split" in tables["impressions"].columns:
            split_times = None
        elif split_times is None:
            raise CommandError(
                "pages belong to no split: pass --split-by-time PRETRAIN_END,TRAIN_END, or add a column `split` to "
                f"impressions with {', '.join(SPLITS)}"
            )
        print(f"running on {type(runner).__name__}", flush=True)
        logging.getLogger("apache_beam").setLevel(logging.WARNING)
        pipeline = beam.Pipeline(runner=runner, options=pipeline_options)
        manifest = build_dataset(directory.resolve(), options, tables, split_times, notice, pipeline)
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
