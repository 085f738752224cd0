"""Exports a ranker for TensorFlow Serving: `python -m export.saved_model`. In Python: `publish(model, base_path)`."""

import argparse
from pathlib import Path

from beam_pipelines.shell.command import ArgumentParser, command, require_directory, run_command

_DEFAULT_DATA = Path("artifacts/dataset")


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Exports a ranker as a version of a TensorFlow Serving model, checked before it appears.")
    parser.add_argument("--model", default="artifacts/ranker", help="from models.train_ctr")
    parser.add_argument("--base-path", default="artifacts/serving", help="the model's directory")
    parser.add_argument("--version", type=int, help="number of the version (unset: one more than the largest there)")
    parser.add_argument(
        "--data",
        help="dataset whose pages are scored by both sides (unset: artifacts/dataset if it has the ranker's items and "
        "users, else the example pages that the ranker keeps)",
    )
    parser.add_argument("--skew-pages", type=int, default=1000, help="how many of them")
    parser.add_argument("--report", help="from models.evaluate, for the model card (unset: none)")
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Writes a version of the ranker, lets it pass the gates, publishes it, and returns the closing line."""
    require_directory(options.model, "--model", "models.train_ctr")

    import tensorflow as tf

    from export.gates.skew import has_tables_of
    from export.version.publish import publish

    tf.get_logger().setLevel("ERROR")
    data = options.data
    if data is None and _DEFAULT_DATA.is_dir() and has_tables_of(_DEFAULT_DATA, options.model):
        data = _DEFAULT_DATA
    published = publish(
        options.model,
        options.base_path,
        version=options.version,
        data=data,
        skew_pages=options.skew_pages,
        report=options.report,
    )
    return (
        f"version {published.number} in {published.path}: passed all gates, differs by "
        f"{published.largest_difference:.1e} from the ranker in process"
    )


if __name__ == "__main__":
    run_command(main)
