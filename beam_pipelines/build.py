"""Builds a page dataset from logs.

Example:
    python -m beam_pipelines.build --logs my_logs --output my_dataset --split-by-time 2026-03-01,2026-03-08
"""

import argparse
import dataclasses
import logging
from pathlib import Path

from beam_pipelines.format.location import as_location
from beam_pipelines.format.outputs import check_output
from beam_pipelines.log_options import DEFAULT_LOGS, add_log_options, parse_log_options, parse_moments
from beam_pipelines.options import BuildOptions
from beam_pipelines.shell.command import ArgumentParser, command, run_command
from beam_pipelines.shell.progress import say

DEFAULT_OUTPUT = "artifacts/dataset"


def _parser() -> ArgumentParser:
    description = __doc__.splitlines()[0] + " Options that are not listed here are handed to Beam."
    parser = ArgumentParser(description, rest="beam_options")
    defaults = BuildOptions()
    add = parser.add_argument
    add("--logs", default=DEFAULT_LOGS, help="log directory; the default is simulated if it does not exist")
    add("--output", default=DEFAULT_OUTPUT, help="dataset directory to write, a path or a URI")
    add("--runner", default="DirectRunner", help="DirectRunner (in this process), FlinkRunner, SparkRunner, ...")
    add("--split-by-time", metavar="PRETRAIN_END,TRAIN_END", help="pages before the first moment are for pre-training, "
        "before the second for training the ranker, the rest for testing")  # fmt: skip
    add_log_options(parser)
    add("--image-side", type=int, default=defaults.image_side, help="pixels of a picture's shorter side, at most")
    add("--image-format", choices=("jpeg", "webp"), default=defaults.image_format, help="encoding of stored pictures")
    add("--page-gap-minutes", type=float, default=defaults.page_gap_minutes, metavar="MINUTES", help="longest pause "
        "between two rows of a page; after a longer one, its ID is used again, for another page")  # fmt: skip
    add("--split-reused-pages", action="store_true", help="a page ID that is used again, after such a pause or by "
        "another user, names a page of its own each time; otherwise its rows are rejected")  # fmt: skip
    add("--previous", metavar="DATASET", help="an earlier dataset, for daily builds: item and user rows "
        "keep their numbers, new ones are appended")  # fmt: skip
    add("--click-days", type=int, default=defaults.click_days, help="how far back click histories reach")
    add("--pay-days", type=int, default=defaults.pay_days, help="how far back payment histories reach")
    add("--same-category-clicks", action="store_true", help="click histories keep the page's category only")
    add("--max-candidates", type=int, default=defaults.max_candidates, help="candidates kept per page, the first ones")
    add("--train-negatives", type=float, default=defaults.train_negatives, metavar="RATE", help="share of the "
        "unclicked candidates of train pages that is kept")  # fmt: skip
    add("--pretraining-view", choices=("page", "causal"), default=defaults.pretraining_view, help="what the encoder "
        "learns on: pretrain pages, trimmed; or every click once as the target of the clicks before it")  # fmt: skip
    add("--pretraining-negatives", type=float, default=defaults.pretraining_negatives, metavar="RATE", help="share of "
        "unclicked candidates kept there")  # fmt: skip
    add("--pretraining-candidates", type=int, default=defaults.pretraining_candidates, help="candidates per page "
        "there, clicked ones first")  # fmt: skip
    add("--pretraining-clicks", type=int, default=defaults.pretraining_clicks, help="history clicks per page there, "
        "the latest")  # fmt: skip
    add("--pretraining-categories", nargs="+", default=[], metavar="CATEGORY", help="keeps these items only there")
    add("--bucket-memory-mb", type=int, default=defaults.bucket_memory_mb, help="memory for building one bucket of "
        "users; decides how many buckets there are")  # fmt: skip
    add("--page-buckets", type=int, help="number of buckets, and of shards per split, whatever the memory")
    parser.add_overwrite()
    return parser


def _build_options(options: argparse.Namespace) -> BuildOptions:
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(BuildOptions)}
    values |= parse_log_options(options)
    values["split_by_time"] = parse_moments(options.split_by_time)
    return BuildOptions(**values)


def _simulate_sample(options: argparse.Namespace) -> None:
    """Simulates the sample's logs, unless the build is sure to be refused."""
    from beam_pipelines.datasets.sample_logs import write_sample_logs
    from beam_pipelines.runners import make_runner

    check_output(as_location(options.output), overwrite=options.overwrite)
    make_runner(options.runner, options.beam_options)
    say(f"{options.logs} does not exist: simulating the sample first")
    write_sample_logs(options.logs)


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Runs the command; see `--help`."""
    build_options = _build_options(options)
    from beam_pipelines import build_dataset, submit_dataset  # imports Beam

    logging.basicConfig()
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    if options.logs == DEFAULT_LOGS and not Path(options.logs).exists():
        _simulate_sample(options)
    run = {name: getattr(options, name) for name in ("previous", "runner", "beam_options", "overwrite")}
    if "--no_wait_until_finish" in options.beam_options:
        submit_dataset(options.logs, options.output, build_options, **run)
        return f"submitted: the dataset will appear in {options.output}"
    manifest = build_dataset(options.logs, options.output, build_options, **run)
    if manifest.notice:
        say(f"notice: {manifest.notice}")
    pages = ", ".join(f"{split.pages} {name}" for name, split in manifest.splits.items())
    pictures = manifest.images.stored if manifest.images else 0
    rejected = sum(count for name, count in manifest.counters.items() if name.startswith("rejected."))
    joined = ", ".join(f"{name.replace('.', ' with ')} {join.share:.1%}" for name, join in manifest.joins.items())
    return (
        f"dataset: pages {pages}; {pictures} pictures; {rejected} rejected rows; joined: {joined}; in {options.output}"
    )


if __name__ == "__main__":
    run_command(main)
