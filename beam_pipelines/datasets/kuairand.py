"""Turns KuaiRand's feed log into a log directory; `kuairand_logs` says how.

Example:
    python -m beam_pipelines.datasets.kuairand --source KuaiRand-Pure.tar.gz --output artifacts/kuairand_logs
"""

import argparse
from pathlib import Path
from typing import get_args

from beam_pipelines.datasets.kuairand_logs import NOTICE, Clicked, RandomExposure, write_kuairand_logs
from beam_pipelines.shell.command import ArgumentParser, command, run_command
from beam_pipelines.shell.progress import say


def _parser() -> ArgumentParser:
    parser = ArgumentParser(f"Turns KuaiRand's feed log into logs ({NOTICE}).")
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        help="folder, .zip or .tar.gz with the files of KuaiRand-Pure, -1K or -27K: log_standard_4_22_to_5_08_pure.csv,"
        " video_features_basic_pure.csv, user_features_pure.csv, ...; or of a repackaged edition: impressions, videos, "
        "users, user_history_before_20220425 (.csv, .csv.gz or .csv.zip)",
    )
    parser.add_argument("--output", default="artifacts/kuairand_logs", help="log directory to make")
    parser.add_argument(
        "--clicked",
        choices=get_args(Clicked),
        default="is_click",
        help="the column that is a click; those of is_click that are long views are conversions",
    )
    parser.add_argument(
        "--random-exposure",
        choices=get_args(RandomExposure),
        default="leave_out",
        help="what the random policy showed (log_random_*): left out, or on pages of its own, whose query and ID end "
        "in random",
    )
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Runs the command; see `--help`."""
    logs = write_kuairand_logs(
        options.source,
        options.output,
        clicked=options.clicked,
        random_exposure=options.random_exposure,
        overwrite=options.overwrite,
    )
    for what, number in logs.counters.items():
        say(f"{what}: {number}")
    return (
        f"{options.output}: {logs.pages} pages with {logs.impressions} candidates, {logs.clicks} of them clicked, "
        f"{logs.events} earlier clicks, {logs.users} users, {logs.items} items ({NOTICE})"
    )


if __name__ == "__main__":
    run_command(main)
