"""Embeds the pictures of all items with a pre-trained encoder: `python -m models.embed`."""

import argparse

from beam_pipelines.format.errors import about
from beam_pipelines.shell.command import ArgumentParser, command, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "Embeds the pictures of all items. The same command goes on where it was killed, and ends with the same file."
    )
    parser.add_argument("--data", default="artifacts/dataset", help="from beam_pipelines.build")
    parser.add_argument("--encoder", default="artifacts/encoder", help="from models.pretrain")
    parser.add_argument("--output", default="artifacts/embeddings", help="directory to write")
    parser.add_argument("--batch-size", type=int, default=256, help="pictures encoded together")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the stored vectors")
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
        default="float32",
        help="of the computation",
    )
    parser.add_argument(
        "--previous",
        metavar="EMBEDDINGS",
        help="earlier embeddings by the same encoder: vectors of pictures that are in them, by content, are copied",
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=1.0,
        metavar="MINUTES",
        help="what an interruption can cost; 0 keeps every batch",
    )
    parser.add_argument(
        "--restart", action="store_true", help="throw away what an interrupted run has left instead of going on"
    )
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Writes the embeddings of all items and returns the closing line."""
    from models.embeddings.embed import count_pictures, embed
    from models.embeddings.embeddings import Embeddings

    previous = None
    if options.previous is not None:
        with about("previous"):
            previous = Embeddings.load(options.previous)
    embeddings = embed(**{**vars(options), "previous": previous})
    metadata = embeddings.metadata
    total, copied = count_pictures(embeddings, previous)
    pictures = f"{total} pictures"
    if previous is not None:
        pictures += f": {total - copied} encoded, {copied} copied from {options.previous}"
    return f"wrote embeddings of {metadata.items_with_image} of {metadata.items} items ({pictures}) to {options.output}"


if __name__ == "__main__":
    run_command(main)
