"""Reads logs without building: what a build would use of them, what it would lose, and what would stop it.

Example:
    python -m beam_pipelines.check --logs my_logs
"""

import argparse

from beam_pipelines.format.errors import InputError
from beam_pipelines.log_options import DEFAULT_LOGS, add_log_options, parse_log_options
from beam_pipelines.options import BuildOptions
from beam_pipelines.shell.command import ArgumentParser, command, run_command
from beam_pipelines.shell.report import aligned


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--logs", default=DEFAULT_LOGS, help="log directory, a path or URI")
    add("--previous", metavar="DATASET", help="an earlier dataset, whose items and users are known, too")
    add_log_options(parser)
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Runs the command; see `--help`."""
    build_options = BuildOptions(**parse_log_options(options))
    from beam_pipelines import check_logs  # imports Arrow
    from beam_pipelines.logs.log_report import facts, table_reports

    found = check_logs(options.logs, build_options, previous=options.previous)
    for table in table_reports(found):
        print(f"{table.title}\n{aligned(table.columns, text_columns=2)}\n", flush=True)
    for line in facts(found):
        print(line)
    for line in found.warnings:
        print(f"warning: {line}")
    if found.problems:
        raise InputError("a build would stop:\n" + "\n".join(f"  {problem}" for problem in found.problems))
    rows = ", ".join(f"{table.rows:,} rows of {name}" for name, table in found.survey.items())
    return f"checked: {rows}; a build would use them"


if __name__ == "__main__":
    run_command(main)
