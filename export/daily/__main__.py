"""Does the work of a day: builds, judges, publishes and learns, and keeps a ledger: `python -m export.daily`."""

import argparse
import datetime
from pathlib import Path

from beam_pipelines.format.errors import InputError
from beam_pipelines.shell.command import ArgumentParser, command, require_directory, run_command
from export.daily import STEPS


def _parser() -> ArgumentParser:
    from beam_pipelines.log_options import add_log_options

    parser = ArgumentParser(
        "Does the work of a day: builds it on top of the day before, measures a candidate and the version that serves "
        "on its pages, publishes the candidate unless it is worse, and learns from the day. The same command goes on "
        "where it was killed. A bad day is refused with exit code 2."
    )
    add = parser.add_argument
    add(
        "--logs",
        required=True,
        help="log directory: catalogue, impressions of the day and of the 30 days before, events",
    )
    add("--day", required=True, metavar="DATE", help="the day (UTC), such as 2026-03-09")
    add("--state", type=Path, default=Path("artifacts/daily"), help="directory of the ledger and of what days hand on")
    add("--base-path", default="artifacts/serving", help="where versions are published")
    add("--data", default="artifacts/dataset", help="of the first day: the dataset that it is built on")
    add("--encoder", default="artifacts/encoder", help="from models.pretrain; embeds the pictures of all days")
    add("--embeddings", default="artifacts/embeddings", help="of the first day: those of --data")
    add("--clusters", default="artifacts/clusters", help="of the first day: those of --embeddings")
    add("--model", default="artifacts/rankers/cluster_id", help="of the first day: the ranker to go on from")
    add("--bound", dest="bounds", action="append", default=[], metavar="KEY=VALUE", help="overrides a bound of what is "
        "refused, see docs/daily.md (repeatable)")  # fmt: skip
    add("--set", dest="training", action="append", default=[], metavar="KEY=VALUE", help="overrides a key of --model's "
        "configuration for training on a day, of which there is one epoch otherwise (repeatable)")  # fmt: skip
    add("--skew-pages", type=int, default=1000, help="pages by which a version is compared before it is published")
    add("--keep-days", type=int, default=7, help="days whose datasets and runs stay in --state")
    add("--until", choices=STEPS, help="the last step to do now, for schedulers that show each (unset: all)")
    add("--restart", action="store_true", help="throw away what an unfinished run on this day has left")
    add_log_options(parser)
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Works on the day and returns the closing line."""
    from beam_pipelines.log_options import parse_log_options
    from beam_pipelines.options import BuildOptions

    try:
        day = datetime.date.fromisoformat(options.day)
    except ValueError as error:
        raise InputError(f"`day` must be a date such as 2026-03-09. Received: {options.day}") from error
    reading = BuildOptions(**parse_log_options(options))
    require_directory(options.model, "--model", "models.train_ctr")

    import tensorflow as tf

    from export.daily.bounds import DayBounds
    from export.daily.plan import DailyOptions, run_day
    from models.config import load_config

    tf.get_logger().setLevel("ERROR")  # each ranker traces its own graph, which TensorFlow takes for a mistake
    entry = run_day(
        options.logs,
        day,
        options.state,
        DailyOptions(
            data=options.data,
            encoder=options.encoder,
            embeddings=options.embeddings,
            clusters=options.clusters,
            model=options.model,
            base_path=options.base_path,
            reading=reading,
            bounds=load_config(DayBounds, None, options.bounds),
            training=options.training,
            skew_pages=options.skew_pages,
            keep_days=options.keep_days,
        ),
        until=options.until,
        restart=options.restart,
    )
    if entry is None:
        return f"{day}: the steps up to {options.until} are done; the rest is to come"
    gauc = (
        ""
        if entry.difference is None
        else ", GAUC {difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(**entry.difference["gauc_page_mean"])
    )
    if entry.outcome == "published":
        return f"{day}: published version {entry.version}{gauc}; ledger in {options.state}"
    why = "; ".join(entry.reasons)
    return f"{day}: the candidate is not published ({why}); version {entry.version} goes on serving{gauc}"


if __name__ == "__main__":
    run_command(main)
