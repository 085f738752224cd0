"""Measures rankers on the pages of a split: `python -m models.evaluate`."""

import argparse
from pathlib import Path

from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.shell.command import ArgumentParser, command, require_directory, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Measures rankers on the pages of a split.")
    parser.add_argument("--data", default="artifacts/dataset", help="from beam_pipelines.build")
    parser.add_argument(
        "--model",
        nargs="+",
        dest="models",
        default=["artifacts/ranker"],
        metavar="[NAME=]RUN",
        help="run directories of models.train_ctr; the others are compared with the first. Runs of one NAME are "
        "averaged; without names, those that differ in nothing but the seed",
    )
    parser.add_argument("--output", default="artifacts/report", help="directory to write")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which pages")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Scores the pages with every model, writes the report and returns the closing line."""
    import tensorflow as tf

    from models.evaluation.evaluate import evaluate
    from models.evaluation.report import report_table

    tf.get_logger().setLevel("ERROR")  # each model traces its own graph, which TensorFlow takes for a mistake
    report = evaluate(
        require_directory(options.data, "--data", "beam_pipelines.build"),
        [_named_run(text) for text in options.models],
        split=options.split,
        output=options.output,
        overwrite=options.overwrite,
    )
    print(report_table(report))
    return (
        f"wrote the report on {len(report['models'])} models and {report['pages']} {options.split} pages to "
        f"{options.output}"
    )


def _named_run(text: str) -> tuple[str | None, Location]:
    """Reads `[NAME=]RUN`."""
    name, equals, run = text.partition("=")
    is_named = equals and name and "://" not in name and not Path(text).exists()
    return (name, as_location(run)) if is_named else (None, as_location(text))


if __name__ == "__main__":
    run_command(main)
