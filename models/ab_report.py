"""Compares the arms of an experiment on users: `python -m models.ab_report`."""

import argparse
from pathlib import Path

from beam_pipelines.format.errors import about
from beam_pipelines.log_options import parse_columns, parse_units
from beam_pipelines.options import BuildOptions
from beam_pipelines.shell.command import ArgumentParser, command, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Compares the arms of an experiment on users.")
    add = parser.add_argument
    add("--logs", required=True, help="log directory, of the experiment's time and the days before")
    add("--exposures", type=Path, nargs="+", required=True, metavar="FILE", help="exposure logs (JSON lines)")
    add("--experiment", type=Path, required=True, metavar="FILE", help="JSON file of the experiment and its arms")
    add("--output", default="artifacts/ab_report", help="directory to write")
    add("--metrics", nargs="+", metavar="NAME", help="ctr, conversion, orders_per_user, value_per_user: chosen before "
        "the experiment (unset: all that the logs allow)")  # fmt: skip
    add("--value", metavar="COLUMN", help="the column stat_* of items that says what an order is worth")
    add("--before-days", type=int, default=14, help="days before a user's first exposure that adjust the metrics "
        "(CUPED); 0 for no adjustment")  # fmt: skip
    add("--planned-days", type=int, metavar="DAYS", help="how long the experiment is to run: each day is a look that "
        "may end it, with bounds that keep the error over all looks (unset: this is the only look)")  # fmt: skip
    add("--bootstrap", action="store_true", help="intervals by a bootstrap over users as well")
    add("--aa-splits", type=int, default=0, metavar="SPLITS", help="A/A: split all users at random so often, "
        "and see that 5 %% of the splits differ")  # fmt: skip
    add("--columns", nargs="+", default=[], metavar="TABLE.COLUMN=NAME", help="columns that have other names")
    add("--timestamp-unit", nargs="+", default=[], metavar="UNIT|TABLE.COLUMN=UNIT", help="unit of all times, or of "
        "those in a column; what is not told is detected")  # fmt: skip
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Compares the arms, writes the report and returns the closing line."""
    told = BuildOptions(columns=parse_columns(options.columns), timestamp_unit=parse_units(options.timestamp_unit))
    from models.experiments.experiment import Experiment
    from models.experiments.report import experiment_report, report_table

    with about("experiment"):
        experiment = Experiment.read(options.experiment)
    report = experiment_report(
        options.logs,
        options.exposures,
        experiment,
        output=options.output,
        overwrite=options.overwrite,
        metrics=options.metrics,
        value=options.value,
        before_days=options.before_days,
        planned_days=options.planned_days,
        bootstrap=options.bootstrap,
        aa_splits=options.aa_splits,
        columns=told.columns,
        rules=told.reading_rules(),
    )
    print(report_table(report))
    return f"wrote the report on {experiment.name}, {report['users']} users, to {options.output}"


if __name__ == "__main__":
    run_command(main)
