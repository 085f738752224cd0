"""Writes the logs of simulated shoppers; `sample_logs` says how they are made.

Example:
    python -m beam_pipelines.datasets.sample --output artifacts/sample_logs
"""

import argparse

from beam_pipelines.datasets.sample_logs import NOTICE, write_sample_logs
from beam_pipelines.shell.command import ArgumentParser, command, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser(f"Writes logs to try the project on: {NOTICE}.")
    parser.add_argument("--output", default="artifacts/sample_logs", help="log directory to make")
    parser.add_argument("--photos", type=int, default=1200, help="photos used, each one an item")
    parser.add_argument("--users", type=int, default=1500, help="shoppers")
    parser.add_argument("--pages", type=int, default=16000, help="logged pages")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Runs the command; see `--help`."""
    logs = write_sample_logs(
        options.output,
        photos=options.photos,
        users=options.users,
        pages=options.pages,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    return (
        f"{options.output}: {logs.pages} pages with {logs.impressions} impressions and {logs.clicks} clicks of "
        f"{logs.users} users on {logs.items} photos, {logs.events} events ({NOTICE})"
    )


if __name__ == "__main__":
    run_command(main)
