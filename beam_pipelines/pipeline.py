"""Builds a page dataset from logs: the whole of it or nothing."""

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.beam_logging import logging_left_alone
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import FORMAT, SPLITS, ColumnValues, Images, Join, Manifest, PretrainingView
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.format.records import FEATURES, SCHEMA_HASH
from beam_pipelines.images.index import NOT_REFUSED, index_images
from beam_pipelines.images.picture_check import find_pictures
from beam_pipelines.images.previous_images import kept_hashes
from beam_pipelines.images.source import check_images
from beam_pipelines.images.transforms import store_images
from beam_pipelines.logs.catalog import write_catalog
from beam_pipelines.logs.directory import LogDirectory
from beam_pipelines.logs.log_check import LogCheck, check_tables
from beam_pipelines.logs.rejections import count_dead_letters
from beam_pipelines.logs.survey import TableSurvey
from beam_pipelines.options import BuildOptions
from beam_pipelines.pages.plan import PagePlan
from beam_pipelines.pages.results import read_page_results, say_what_is_odd
from beam_pipelines.pages.rules import PageRules, PretrainingRules
from beam_pipelines.pages.transforms import build_pages
from beam_pipelines.runners import make_runner, run_pipeline
from beam_pipelines.shell.progress import progress_bar, say, warn
from beam_pipelines.workspace import count_finished_steps, make_workspace, remove_workspace

BYTES_PER_ROW = 400
"""Memory that building a bucket takes per impression and event, with a margin."""
ROWS_PER_BUCKET = 250_000
"""More at once are not built faster; fewer workers would find something to do."""
MIN_BUCKETS, MAX_BUCKETS = 4, 4096
IMAGES_PER_SHARD = 8192

_DEFAULTS = BuildOptions()


def build_dataset(
    logs: Path | str,
    output: Path | str,
    options: BuildOptions = _DEFAULTS,
    *,
    previous: Path | str | None = None,
    runner: str = "DirectRunner",
    beam_options: Sequence[str] = (),
    overwrite: bool = False,
) -> Manifest:
    """Builds a dataset of pages, items, users and pictures from a log directory.

    The output appears whole, at the end, or not at all. Logs must not change meanwhile.

    Args:
        logs: log directory; docs/data-contract.md says what lies in it.
        output: dataset directory to write.
        options: what shapes the dataset.
        previous: an earlier dataset, for daily builds: item and user rows keep their numbers, new ones are appended,
            and pictures that are stored there are not decoded again.
        runner: `DirectRunner` (in this process), `FlinkRunner`, `SparkRunner`, ...
        beam_options: Beam's own options in the form of its command line, such as `--direct_num_workers=4`.
        overwrite: whether an existing output is replaced, at the very end.

    Returns:
        The manifest of the dataset, which counts all that was read, used, rejected and lost.

    Raises:
        InputError: logs or an argument cannot be used.
        ArtifactError: the output exists and `overwrite` is false, or the previous dataset is damaged.

    Example:
        >>> options = BuildOptions(split_by_time=("2026-03-01", "2026-03-08"))
        >>> manifest = build_dataset("my_logs", "my_dataset", options)
        >>> train_pages = manifest.splits["train"].pages
    """
    logs, output = Path(logs), Path(output)
    if output.resolve().is_relative_to(logs.resolve()):
        raise InputError(f"`output`: {output} is inside {logs}, which is read; choose another place")
    with logging_left_alone():
        engine, pipeline_options = make_runner(runner, beam_options)
        with whole_directory(output, overwrite=overwrite, inputs=[logs]) as directory:
            earlier = _read_previous(previous)
            log_directory = _open(logs, options)
            rules = _page_rules(options, has_split="split" in log_directory.tables["impressions"].columns)
            say(f"running on {type(engine).__name__}")
            pipeline = beam.Pipeline(runner=engine, options=pipeline_options)
            return _build(directory.resolve(), log_directory, options, rules, earlier, pipeline)


def check_logs(logs: Path | str, options: BuildOptions = _DEFAULTS, *, previous: Path | str | None = None) -> LogCheck:
    """Says what a build would use of a log directory, lose and refuse, without building.

    Args:
        logs: log directory; docs/data-contract.md says what lies in it.
        options: of the build.
        previous: an earlier dataset, for daily builds.

    Raises:
        InputError: the logs cannot be read at all, or an argument cannot be used.

    Example:
        >>> check_logs("my_logs").problems
        []
    """
    directory = _open(Path(logs), options)
    checked = _check(directory, options, _read_previous(previous))
    named = Counter(name for name in checked.newest["items"]["image"].to_pylist() if name)
    try:
        pictures = find_pictures(directory.images, named)
    except InputError as error:
        return dataclasses.replace(checked, problems=[*checked.problems, str(error)])
    problems = list(checked.problems)
    if pictures.named - pictures.found > options.max_bad_fraction * pictures.named:
        problems.append(f"{pictures}; `max_bad_fraction` allows {options.max_bad_fraction:g}")
    return dataclasses.replace(checked, pictures=str(pictures), problems=problems)


def _open(logs: Path, options: BuildOptions) -> LogDirectory:
    return LogDirectory.open(logs, options.columns, clicked_is_optional=options.attribute_clicks is not None)


def _check(logs: LogDirectory, options: BuildOptions, previous: tuple[Path, Manifest] | None) -> LogCheck:
    return check_tables(
        logs,
        options.reading_rules(),
        max_bad_fraction=options.max_bad_fraction,
        min_joined=options.min_joined,
        previous=previous,
    )


def _build(
    directory: Path,
    logs: LogDirectory,
    options: BuildOptions,
    rules: PageRules,
    previous: tuple[Path, Manifest] | None,
    pipeline: beam.Pipeline,
) -> Manifest:
    """Builds a dataset into an empty directory, the manifest last."""
    checked = _check(logs, options, previous)
    for line in checked.told():
        say(line)
    for line in checked.warnings:
        warn(line)
    checked.raise_problems()
    survey = checked.survey
    counters = Counter({f"rows.{name}": table.rows for name, table in survey.items()})
    counters.update(checked.counters)
    catalog = write_catalog(directory, survey, checked.newest, counters, previous)

    kept = kept_hashes(previous, catalog.image_of_item, options.image_side, options.image_format)
    names = sorted({name for name in catalog.image_of_item if name})
    hashes = sorted(set(kept.to_pylist()) - {""})
    check_images(logs.images, names)
    has_picture = np.array([bool(name) for name in catalog.image_of_item], bool)
    has_picture |= pc.not_equal(kept, "").to_numpy(zero_copy_only=False)
    plan = PagePlan(
        directory=directory,
        tables=logs.tables,
        reading=checked.reading,
        buckets=options.page_buckets or _buckets(_rows_of_users(survey), options.bucket_memory_mb),
        rules=rules,
        pretraining=_pretraining_rules(options),
        eligible=has_picture & _in_categories(directory / catalog.items.file.path, options.pretraining_categories),
    )
    build_pages(pipeline, plan)
    image_shards = -(-(len(names) + len(hashes)) // IMAGES_PER_SHARD)
    if image_shards:
        store_images(
            pipeline,
            directory,
            logs.images,
            names,
            image_shards,
            options.image_side,
            options.image_format,
            previous=previous[0].resolve() if previous is not None else None,
            kept=hashes,
        )
    make_workspace(directory)
    with _watched(directory, len(plan.parts()) + 2 * plan.buckets + image_shards):
        try:
            run_pipeline(pipeline)
        finally:
            logs.check_unchanged()

    view_negatives = options.pretraining_negatives if options.pretraining_view == "page" else 1.0
    pages = read_page_results(directory, counters, rules, view_negatives, options.max_bad_fraction)
    count_dead_letters(directory, counters, options.max_bad_fraction)
    say_what_is_odd(pages, counters, rules)
    if not pages.splits:
        raise InputError(f"{logs.path}: no page in {survey['impressions'].rows} rows of impressions")
    images = None
    if image_shards:
        images = index_images(
            directory,
            catalog.image_of_item,
            options.image_format,
            options.max_bad_fraction,
            source=logs.images,
            kept=kept,
            counters=counters,
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
    remove_workspace(directory)
    manifest = Manifest(
        format=FORMAT,
        schema_hash=SCHEMA_HASH,
        features=[f"{feature.name} {feature.kind} {feature.group}" for feature in FEATURES],
        notice=logs.notice,
        options=_recorded_options(options, plan, previous),
        sources=logs.sources({file.path: file for table in survey.values() for file in table.files}),
        splits=pages.splits,
        pretraining=view,
        items=catalog.items,
        users=catalog.users,
        images=images,
        max_candidates=pages.max_candidates,
        counters=dict(sorted(counters.items())),
        joins=_joins(checked, images),
        columns={
            f"{name}.{column}": ColumnValues(present=counts.present, read=counts.read, markers=counts.markers)
            for name, table in survey.items()
            for column, counts in table.columns.items()
        },
    )
    manifest.write(directory)
    return manifest


def _recorded_options(options: BuildOptions, plan: PagePlan, previous: tuple[Path, Manifest] | None) -> dict[str, Any]:
    """The options that shaped the content, as they took effect: paths left out, detected values filled in."""
    return {
        "split_by_time": list(plan.rules.split_times) if plan.rules.split_times is not None else None,
        "page_gap_minutes": float(options.page_gap_minutes),
        "split_reused_pages": options.split_reused_pages,
        "click_days": options.click_days,
        "pay_days": options.pay_days,
        "same_category_clicks": options.same_category_clicks,
        "max_candidates": options.max_candidates,
        "attribute_clicks": options.attribute_clicks,
        "previous": previous[1].digest() if previous is not None else None,
        "timestamp_unit": dict(sorted(plan.reading.units.items())),
        "time_range": list(plan.reading.time_range) if options.time_range is not None else None,
        "missing_markers": list(options.missing_markers) if options.missing_markers is not None else None,
        "columns": sorted(f"{column}={name}" for column, name in options.columns.items()),
        "page_buckets": plan.buckets,
        "image_side": options.image_side,
        "image_format": options.image_format,
    }


def _read_previous(path: Path | str | None) -> tuple[Path, Manifest] | None:
    if path is None:
        return None
    if not Path(path).is_dir():
        raise InputError(f"`previous`: no directory {path}; an earlier build makes it")
    return Path(path), Manifest.read(Path(path))


def _page_rules(options: BuildOptions, has_split: bool) -> PageRules:
    if not has_split and options.split_times is None:
        raise InputError(
            "pages belong to no split: pass `split_by_time` PRETRAIN_END,TRAIN_END, or add a column `split` to "
            f"impressions with {', '.join(SPLITS)}"
        )
    return PageRules(
        split_times=None if has_split else options.split_times,
        page_gap_minutes=options.page_gap_minutes,
        split_reused_pages=options.split_reused_pages,
        click_days=options.click_days,
        pay_days=options.pay_days,
        same_category_clicks=options.same_category_clicks,
        attribution_hours=options.attribute_clicks,
        train_negatives=options.train_negatives,
        max_candidates=options.max_candidates,
    )


def _pretraining_rules(options: BuildOptions) -> PretrainingRules:
    return PretrainingRules(
        kind=options.pretraining_view,
        negatives=options.pretraining_negatives,
        candidates=options.pretraining_candidates,
        clicks=options.pretraining_clicks,
        categories=tuple(options.pretraining_categories),
        end=options.split_times[0] if options.split_times else 0,
    )


def _rows_of_users(survey: Mapping[str, TableSurvey]) -> int:
    return sum(survey[name].rows for name in ("impressions", "events") if name in survey)


def _joins(checked: LogCheck, images: Images | None) -> dict[str, Join]:
    joins = {f"{table}.{other}": join.counts for (table, other), join in checked.joins.items()}
    if images is not None:
        stored = images.items_with_image
        named = stored + sum(count for reason, count in images.missing.items() if reason not in NOT_REFUSED)
        joins["items.pictures"] = Join(rows=named, joined=stored, ids=named, joined_ids=stored)
    return joins


def _buckets(rows: int, memory_mb: int) -> int:
    """As many as keep a bucket in its memory, and at least a few, so that workers share the work."""
    in_memory = (memory_mb << 20) // BYTES_PER_ROW
    return min(MAX_BUCKETS, max(MIN_BUCKETS, -(-rows // min(in_memory, ROWS_PER_BUCKET))))


def _in_categories(items: Path, categories: Sequence[str]) -> np.ndarray:
    """Which items have one of the categories, bool by item row: all of them if there are no categories."""
    category = pq.read_table(items, columns=["category"])["category"]
    if not categories:
        return np.ones(len(category), bool)
    if unknown := sorted(set(categories) - set(pc.unique(category).to_pylist())):
        raise InputError(f"`pretraining_categories`: no item has the category {unknown[0]!r}")
    return pc.is_in(category, pa.array(categories)).to_numpy()


@contextlib.contextmanager
def _watched(directory: Path, steps: int) -> Iterator[None]:
    """Shows how many steps are done while the block runs. Works with any runner: it watches the files they leave."""
    finished = threading.Event()
    with progress_bar(total=steps, desc="building pages and pictures", unit="step") as bar:

        def watch() -> None:
            while not finished.wait(0.5):
                bar.update(min(count_finished_steps(directory), steps) - bar.n)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
            bar.update(steps - bar.n)  # buckets without a user leave no file
        finally:
            finished.set()
            watcher.join()
