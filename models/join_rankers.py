"""Makes one ranker of several: `python -m models.join_rankers`."""

import argparse

from beam_pipelines.shell.command import ArgumentParser, command, require_directory, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "Makes one ranker of several that differ in their seed: its log-odds are the mean of theirs, calibrated on the "
        "validation pages."
    )
    parser.add_argument("--data", default="artifacts/dataset", help="from beam_pipelines.build")
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="run directories of models.train_ctr")
    parser.add_argument("--output", default="artifacts/joined_ranker", help="run directory to write")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Writes the ranker and returns the closing line."""
    from models.ranker.join import join_rankers

    data = require_directory(options.data, "--data", "beam_pipelines.build")
    run = join_rankers(data, options.runs, options.output, overwrite=options.overwrite)
    members, auc = run.config().ranker.members, run.metadata.validation["auc"]
    return f"wrote a ranker of {members} members to {options.output}: validation AUC {auc:.4f}"


if __name__ == "__main__":
    run_command(main)
