"""Exports a retriever for TensorFlow Serving: `python -m export.retrieval`.

In Python: `publish_retrieval(model, base_path)`.
"""

import argparse

from beam_pipelines.shell.command import ArgumentParser, CommandError, command, require_directory, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "Exports a retriever as a version of a TensorFlow Serving model, checked before it appears."
    )
    parser.add_argument("--model", default="artifacts/retrieval", help="from models.train_retrieval")
    parser.add_argument("--base-path", default="artifacts/retrieval_serving", help="the model's directory")
    parser.add_argument("--version", type=int, help="number of the version (unset: one more than the largest there)")
    parser.add_argument(
        "--data",
        metavar="DATASET",
        help="later dataset whose items, new ones too, and users are served, without training (unset: those that the "
        "retriever was trained with)",
    )
    parser.add_argument(
        "--embeddings",
        nargs="+",
        action="append",
        metavar="EMBEDDINGS",
        help="of the items of --data, as in training (unset: artifacts/embeddings)",
    )
    parser.add_argument("--k", type=int, default=200, help="candidates that a user gets")
    parser.add_argument(
        "--index",
        choices=("brute_force", "scann"),
        default="brute_force",
        help="brute_force: exact, on any server; scann: for many items, needs a server with ScaNN's operations",
    )
    parser.add_argument("--leaves", type=int, help="of ScaNN (unset: the square root of the number of items)")
    parser.add_argument("--leaves-to-search", type=int, help="of ScaNN (unset: a fifth of them, more for a large --k)")
    parser.add_argument("--reordered", type=int, help="of ScaNN: items that are scored exactly (unset: 4 times --k)")
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Writes a version of the retriever, lets it pass the gates, publishes it, and returns the closing line."""
    require_directory(options.model, "--model", "models.train_retrieval")
    given = {name: getattr(options, name) for name in ("leaves", "leaves_to_search", "reordered")}
    if options.index != "scann" and any(value is not None for value in given.values()):
        raise CommandError("--leaves, --leaves-to-search and --reordered are of --index scann")
    if options.data is None and options.embeddings is not None:
        raise CommandError("--embeddings are those of the items of --data")

    import tensorflow as tf

    from export.retrieval.publish import publish_retrieval

    tf.get_logger().setLevel("ERROR")
    published = publish_retrieval(
        options.model,
        options.base_path,
        version=options.version,
        data=options.data,
        embeddings=[["artifacts/embeddings"]] if options.embeddings is None else options.embeddings,
        k=options.k,
        index=options.index,
        scann={name: value for name, value in given.items() if value is not None},
    )
    return (
        f"version {published.number} in {published.path}: passed all gates, finds {published.recall:.2%} of the "
        "candidates among all items"
    )


if __name__ == "__main__":
    run_command(main)
