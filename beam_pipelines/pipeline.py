"""Builds a page dataset from logs: the whole of it or nothing."""

import contextlib
import dataclasses
import json
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.beam_logging import logging_left_alone
from beam_pipelines.commit import Draft, add_commit
from beam_pipelines.exchange import Blocks, Exchange, ScratchFiles
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.local_copy import local_copy
from beam_pipelines.format.location import Location, as_location, is_remote, is_within, remove_file, storage_errors
from beam_pipelines.format.manifest import FORMAT, MANIFEST_NAME, SPLITS, ColumnValues, Manifest
from beam_pipelines.format.outputs import Attempt, abandon, begin
from beam_pipelines.format.records import FEATURES, SCHEMA_HASH
from beam_pipelines.images.picture_check import find_pictures
from beam_pipelines.images.previous_images import kept_hashes
from beam_pipelines.images.source import check_images, folders_of
from beam_pipelines.images.transforms import ImagePlan, store_images
from beam_pipelines.logs.catalog import write_catalog
from beam_pipelines.logs.directory import LogDirectory
from beam_pipelines.logs.log_check import LogCheck, check_tables
from beam_pipelines.logs.survey import TableSurvey
from beam_pipelines.options import BuildOptions
from beam_pipelines.pages.plan import PagePlan
from beam_pipelines.pages.rules import PageRules, PretrainingRules
from beam_pipelines.pages.transforms import build_pages
from beam_pipelines.picture_plan import PicturePlan
from beam_pipelines.runners import Engine, check_detachable, make_runner, run_pipeline, start_pipeline
from beam_pipelines.shell.progress import progress_bar, say, warn

BYTES_PER_ROW = 400
"""Memory that building a bucket takes per impression and event, with a margin."""
MIN_BUCKETS = 4
ROWS_PER_STATISTICS_PART = 1 << 20
"""What they leave of counts by item and day, at most as many, goes into one group: some megabytes in blocks."""
IMAGES_PER_SHARD = 8192

_DEFAULTS = BuildOptions()


def build_dataset(
    logs: Location | str,
    output: Location | str,
    options: BuildOptions = _DEFAULTS,
    *,
    previous: Location | str | None = None,
    runner: str = "DirectRunner",
    beam_options: Sequence[str] = (),
    overwrite: bool = False,
) -> Manifest:
    """Builds a dataset of pages, items, users and pictures from a log directory.

    The output appears whole, at the end, or not at all. Logs must not change meanwhile.

    Args:
        logs: log directory; docs/data-contract.md says what lies in it.
        output: dataset directory to write: a path, or a URI such as `s3://bucket/dataset`.
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
    output = as_location(output)
    with logging_left_alone():
        engine = make_runner(runner, beam_options)
        if engine.is_detached:
            raise InputError("--no_wait_until_finish is for `submit_dataset`: `build_dataset` returns what was built")
        _run(as_location(logs), output, options, previous, engine, overwrite=overwrite, waits=True)
    return Manifest.read(local_copy(output, only=[MANIFEST_NAME]))


def submit_dataset(
    logs: Location | str,
    output: Location | str,
    options: BuildOptions = _DEFAULTS,
    *,
    previous: Location | str | None = None,
    runner: str,
    beam_options: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Submits what `build_dataset` does to a cluster, and returns when that has begun.

    Logs are checked before, and item and user tables written. The rest, down to the commit, is the cluster's. If it
    fails, nothing appears, and a later build into the same output sweeps what was left.

    Args:
        logs, output, options, previous, runner, beam_options, overwrite: see `build_dataset`; the output must be a
            URI, and `beam_options` have `--no_wait_until_finish`.

    Raises:
        InputError: logs or an argument cannot be used, or the job would end with this process.
        ArtifactError: see `build_dataset`.
    """
    output = as_location(output)
    with logging_left_alone():
        engine = make_runner(runner, beam_options)
        check_detachable(engine)
        if not is_remote(output):
            raise InputError(f"`output`: --no_wait_until_finish needs a URI (s3://, gs://, ...). Received: {output}")
        _run(as_location(logs), output, options, previous, engine, overwrite=overwrite, waits=False)


def _run(
    logs: Location,
    output: Location,
    options: BuildOptions,
    previous: Location | str | None,
    engine: Engine,
    *,
    overwrite: bool,
    waits: bool,
) -> None:
    """Runs a build; or only begins to."""
    if is_within(output, logs):
        raise InputError(f"`output`: {output} is inside {logs}, which is read; choose another place")
    with contextlib.ExitStack() as stack:
        attempt = begin(output if is_remote(output) else output.absolute(), overwrite=overwrite, inputs=[logs])
        stack.callback(abandon, attempt)
        earlier = _read_previous(previous)
        log_directory = _open(logs, options)
        rules = _page_rules(options, has_split="split" in log_directory.tables["impressions"].columns)
        say(f"running on {type(engine.runner).__name__}")
        exchange: Exchange = Blocks()
        if engine.is_in_process:
            directory = attempt.directory
            if is_remote(directory):
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            exchange = ScratchFiles(directory / "scratch")
            exchange.open()
        pipeline = beam.Pipeline(runner=engine.runner, options=engine.options)
        told = _beside(attempt) if waits else None
        steps = _add_build(pipeline, attempt, log_directory, options, rules, earlier, exchange, told, previous)
        if told is None:
            start_pipeline(pipeline)
            stack.pop_all()
            return
        try:
            with _watched(exchange, steps):
                run_pipeline(pipeline)
        except Exception:
            log_directory.check_unchanged()  # if they are not, this is why
            raise
        finally:
            _pass_on(told)


def check_logs(
    logs: Location | str, options: BuildOptions = _DEFAULTS, *, previous: Location | str | None = None
) -> LogCheck:
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
    directory = _open(as_location(logs), options)
    checked = _check(directory, options, _read_previous(previous))
    named = Counter(name for name in checked.newest["items"]["image"].to_pylist() if name)
    try:
        pictures = find_pictures(directory.images, named)
    except InputError as error:
        return dataclasses.replace(checked, problems=[*checked.problems, str(error)])
    problems = list(checked.problems)
    if pictures.named - pictures.found > options.max_bad_fraction * pictures.named:
        problems.append(f"{pictures}; `max_bad_fraction` allows {options.max_bad_fraction:g}")
    return dataclasses.replace(checked, pictures=pictures, problems=problems)


def _open(logs: Location, options: BuildOptions) -> LogDirectory:
    return LogDirectory.open(logs, options.columns, clicked_is_optional=options.attribute_clicks is not None)


def _check(logs: LogDirectory, options: BuildOptions, previous: tuple[Path, Manifest] | None) -> LogCheck:
    return check_tables(
        logs,
        options.reading_rules(),
        max_bad_fraction=options.max_bad_fraction,
        min_joined=options.min_joined,
        previous=previous,
    )


def _add_build(
    pipeline: beam.Pipeline,
    attempt: Attempt,
    logs: LogDirectory,
    options: BuildOptions,
    rules: PageRules,
    previous: tuple[Path, Manifest] | None,
    exchange: Exchange,
    told: Location | None,
    previous_at: Location | str | None,
) -> int:
    """Does what is done before the pipeline runs, and adds its transforms; returns in how many steps they work."""
    directory = attempt.directory
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
    pictures = PicturePlan(directory / "plan")
    plan = PagePlan(
        directory=directory,
        exchange=exchange,
        tables=logs.tables,
        reading=checked.reading,
        buckets=options.page_buckets or _buckets(_rows_of_users(survey), options.bucket_memory_mb, exchange),
        statistics_parts=-(-_rows_of_users(survey) // ROWS_PER_STATISTICS_PART) or 1,
        rules=rules,
        pretraining=_pretraining_rules(options),
    )
    eligible = has_picture & _in_categories(plan, options.pretraining_categories)
    pictures.write_items(catalog.image_of_item, kept, eligible)
    pages = build_pages(pipeline, plan, pictures)
    image_shards = -(-(len(names) + len(hashes)) // IMAGES_PER_SHARD)
    stored = None
    if image_shards:
        image_plan = ImagePlan(
            directory=directory,
            exchange=exchange,
            pictures=pictures,
            batches=pictures.write_pictures(names, hashes),
            images=logs.images,
            shared=folders_of(names),
            shards=image_shards,
            side=options.image_side,
            format=options.image_format,
            previous=_absolute(as_location(previous_at)) if previous_at is not None else None,
        )
        stored = store_images(pipeline, image_plan)
    draft = Draft(
        attempt=attempt,
        manifest=Manifest(
            format=FORMAT,
            schema_hash=SCHEMA_HASH,
            features=[f"{feature.name} {feature.kind} {feature.group}" for feature in FEATURES],
            notice=logs.notice,
            options=_recorded_options(options, plan, previous),
            sources=logs.sources({file.path: file for table in survey.values() for file in table.files}),
            splits={},
            pretraining=None,
            items=catalog.items,
            users=catalog.users,
            images=None,
            max_candidates=0,
            counters=counters,
            joins={f"{table}.{other}": join.counts for (table, other), join in checked.joins.items()},
            columns={
                f"{name}.{column}": ColumnValues(present=counts.present, read=counts.read, markers=counts.markers)
                for name, table in survey.items()
                for column, counts in table.columns.items()
            },
        ),
        logs=logs,
        options=options,
        rules=rules,
        dead_letters=catalog.dead_letters,
        pictures=pictures,
        has_pictures=stored is not None,
        exchange=exchange,
        told=told,
    )
    add_commit(pipeline, draft, pages, stored)
    return len(plan.parts()) + 2 * plan.buckets + image_shards


def _absolute(location: Location) -> Location:
    return location if is_remote(location) else location.resolve()


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


def _read_previous(path: Location | str | None) -> tuple[Path, Manifest] | None:
    if path is None:
        return None
    dataset = as_location(path)
    if not is_remote(dataset) and not dataset.is_dir():
        raise InputError(f"`previous`: no directory {path}; an earlier build makes it")
    copy = local_copy(dataset, only=[MANIFEST_NAME])  # of a remote one, what is read later is got then
    return copy, Manifest.read(copy)


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


def _buckets(rows: int, memory_mb: int, exchange: Exchange) -> int:
    """As many as keep a bucket in its memory, and at least a few, so that workers share the work."""
    in_memory = (memory_mb << 20) // BYTES_PER_ROW
    return min(exchange.max_buckets, max(MIN_BUCKETS, -(-rows // min(in_memory, exchange.rows_per_bucket))))


def _in_categories(plan: PagePlan, categories: Sequence[str]) -> np.ndarray:
    """Which items have one of the categories, bool by item row: all of them if there are no categories."""
    category = plan.item_column("category")
    if not categories:
        return np.ones(len(category), bool)
    if unknown := sorted(set(categories) - set(pc.unique(category).to_pylist())):
        raise InputError(f"`pretraining_categories`: no item has the category {unknown[0]!r}")
    return pc.is_in(category, pa.array(categories)).to_numpy(zero_copy_only=False)


def _beside(attempt: Attempt) -> Location:
    """Where the last step leaves what is to be told: not in the dataset."""
    if is_remote(attempt.directory):
        return attempt.directory / "told.json"
    return attempt.directory.with_name(f"{attempt.directory.name}.told.json")


def _pass_on(told: Location) -> None:
    """Says what the last step has left, if it came to that."""
    with contextlib.suppress(FileNotFoundError, InputError), storage_errors(told):
        for line in json.loads(told.read_text()):
            say(line)
    with contextlib.suppress(InputError):
        remove_file(told)


@contextlib.contextmanager
def _watched(exchange: Exchange, steps: int) -> Iterator[None]:
    """Shows how many steps are done while the block runs, as far as they can be seen from here."""
    if not isinstance(exchange, ScratchFiles):
        yield
        return
    finished = threading.Event()
    with progress_bar(total=steps, desc="building pages and pictures", unit="step") as bar:

        def watch() -> None:
            while not finished.wait(0.5):
                bar.update(max(0, min(exchange.steps_done(), steps) - bar.n))  # in the end the marks vanish

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
            bar.update(steps - bar.n)  # buckets without a user report nothing
        finally:
            finished.set()
            watcher.join()
