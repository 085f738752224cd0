"""Turns KuaiRand-Pure's feed log into a log directory; `kuairand_logs` says how.

Example:
    python -m beam_pipelines.datasets.kuairand --source KuaiRand-Pure --output artifacts/kuairand_logs
"""

import argparse
from pathlib import Path

from beam_pipelines.datasets.kuairand_logs import NOTICE, TABLES, write_kuairand_logs
from beam_pipelines.shell.command import ArgumentParser, command, run_command
from beam_pipelines.shell.progress import say


def _parser() -> ArgumentParser:
    parser = ArgumentParser(f"Turns KuaiRand-Pure's feed log into logs ({NOTICE}).")
    parser.add_argument("--source", type=Path, required=True, help=f"folder with {', '.join(TABLES)} (.csv or .csv.gz)")
    parser.add_argument("--output", type=Path, default=Path("artifacts/kuairand_logs"), help="log directory to make")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Runs the command; see `--help`."""
    logs = write_kuairand_logs(options.source, options.output, overwrite=options.overwrite)
    for what, number in logs.counters.items():
        say(f"{what}: {number}")
    return (
        f"{options.output}: {logs.pages} pages with {logs.impressions} candidates, {logs.clicks} of them clicked, "
        f"{logs.events} earlier clicks, {logs.users} users, {logs.items} items ({NOTICE})"
    )


if __name__ == "__main__":
    run_command(main)
