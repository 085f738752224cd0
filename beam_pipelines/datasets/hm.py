"""Turns the H&M competition's files into a log directory; `hm_logs` says how.

Example:
    python -m beam_pipelines.datasets.hm --source h-and-m-personalized-fashion-recommendations.zip --output LOGS
"""

import argparse
from pathlib import Path

from beam_pipelines.datasets.hm_logs import NOTICE, write_hm_logs
from beam_pipelines.shell.command import ArgumentParser, command, run_command
from beam_pipelines.shell.progress import say


def _parser() -> ArgumentParser:
    parser = ArgumentParser(f"Turns the H&M competition's files into logs ({NOTICE}).")
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        help="the zip that Kaggle gives, or folder with transactions_train, articles and customers (.csv, .csv.gz or "
        ".csv.zip) and images/ (files or .zip)",
    )
    parser.add_argument("--output", default="artifacts/hm_logs", help="log directory to make")
    parser.add_argument("--page-size", type=int, default=20, help="candidates per page")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Runs the command; see `--help`."""
    logs = write_hm_logs(
        options.source,
        options.output,
        page_size=options.page_size,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    for what, number in logs.counters.items():
        say(f"{what}: {number}")
    return (
        f"{options.output}: {logs.pages} pages with {logs.impressions} candidates, {logs.clicks} of them clicked, "
        f"{logs.events} payments of {logs.users} users, {logs.items} items ({NOTICE})"
    )


if __name__ == "__main__":
    run_command(main)
