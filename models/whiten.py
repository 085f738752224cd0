"""Whitens image embeddings: `python -m models.whiten`."""

import argparse

from beam_pipelines.shell.command import ArgumentParser, command, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "Whitens image embeddings, so that strong directions do not drown the others. Fitted on the items of the "
        "pretrain pages alone."
    )
    parser.add_argument("--embeddings", default="artifacts/embeddings", help="from models.embed")
    parser.add_argument("--data", default="artifacts/dataset", help="from beam_pipelines.build; --like needs none")
    parser.add_argument("--output", default="artifacts/whitened", help="directory to write")
    parser.add_argument("--dim", type=int, metavar="K", help="keep the K strongest components (unset: all that vary)")
    parser.add_argument("--l2", action="store_true", help="scale whitened vectors to unit length")
    parser.add_argument(
        "--like", metavar="WHITENED", help="apply the whitening of these embeddings instead of fitting one"
    )
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Writes whitened embeddings of all items and returns the closing line."""
    from models.embeddings.whiten import FITTED_SPLIT, whiten

    metadata = whiten(**vars(options)).metadata
    assert metadata.whitening is not None
    fitted = f"fitted on {metadata.whitening.fitted_items} {FITTED_SPLIT} items"
    if options.like is not None:
        fitted = f"as {options.like}"
    return (
        f"wrote whitened embeddings of {metadata.items_with_image} of {metadata.items} items to {options.output} "
        f"({metadata.dim} of {metadata.whitening.encoder_dim} components, {fitted})"
    )


if __name__ == "__main__":
    run_command(main)
