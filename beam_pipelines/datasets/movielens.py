"""Turns MovieLens' ratings into a log directory; `movielens_logs` says how.

Example:
    python -m beam_pipelines.datasets.movielens --source ml-latest-small.zip --output artifacts/movielens_logs
"""

import argparse
from pathlib import Path

from beam_pipelines.datasets.movielens_logs import NOTICE, write_movielens_logs
from beam_pipelines.shell.command import ArgumentParser, command, run_command
from beam_pipelines.shell.progress import say


def _parser() -> ArgumentParser:
    parser = ArgumentParser(f"Turns MovieLens' ratings into logs ({NOTICE}).")
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        help="archive as GroupLens publishes it (ml-latest-small.zip, ml-1m.zip, ml-32m.zip, ...), or folder with its "
        "ratings and movies (.csv, .csv.gz, .csv.zip, .dat, or u.data and u.item) and, if there are posters, images/ "
        "with MOVIEID.jpg (files or .zip)",
    )
    parser.add_argument("--output", default="artifacts/movielens_logs", help="log directory to make")
    parser.add_argument("--like", type=float, default=4.0, help="ratings from here on are clicks")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Runs the command; see `--help`."""
    logs = write_movielens_logs(options.source, options.output, like=options.like, overwrite=options.overwrite)
    for what, number in logs.counters.items():
        say(f"{what}: {number}")
    return (
        f"{options.output}: {logs.pages} pages with {logs.impressions} candidates, {logs.clicks} of them clicked, "
        f"{logs.users} users, {logs.items} items ({NOTICE})"
    )


if __name__ == "__main__":
    run_command(main)
