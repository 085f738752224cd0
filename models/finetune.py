"""Trains an image encoder on for classification or image search: `python -m models.finetune`."""

import argparse

from beam_pipelines.shell.command import ArgumentParser, command, require_directory, run_command
from models.training_options import add_training_options


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Trains an image encoder on for a task of its own, and measures it on held-out products.")
    parser.add_argument(
        "--data",
        default="artifacts/dataset",
        help="from beam_pipelines.build, or a directory with images.zip and labels.csv",
    )
    parser.add_argument("--output", default="artifacts/finetuned", help="run directory to write")
    parser.add_argument(
        "--task",
        choices=["classify", "retrieve"],
        default="classify",
        help="classify: learns --label; retrieve: which pictures show the same product",
    )
    parser.add_argument(
        "--encoder", help="from models.pretrain, to start from (unset: random or published weights, as configured)"
    )
    parser.add_argument("--label", default="category", help="column of the items that is learned")
    parser.add_argument("--product", default="item_id", help="column that is the same for pictures of one product")
    parser.add_argument(
        "--product-digits", type=int, metavar="N", help="its first N characters; 7 of H&M's item_id (unset: all)"
    )
    add_training_options(parser, config="YAML file (unset: the defaults)", shards=False)
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Trains an encoder, writes its run directory and returns the closing line."""
    from models.config import load_config
    from models.finetuning.config import FinetuneConfig
    from models.finetuning.finetune import finetune

    require_directory(options.data, "--data", "beam_pipelines.build")
    if options.encoder is not None:
        require_directory(options.encoder, "--encoder", "models.pretrain")
    metrics = finetune(
        options.data,
        options.output,
        task=options.task,
        encoder=options.encoder,
        label=options.label,
        product=options.product,
        product_digits=options.product_digits,
        config=load_config(FinetuneConfig, options.config, options.overrides),
        restart=options.restart,
        overwrite=options.overwrite,
    ).metrics
    measured = ", ".join(f"{name} {value[0]:.4f}" for name, value in metrics.items() if isinstance(value, list))
    of = f"{metrics['queries']} queries" if options.task == "retrieve" else f"{metrics['pictures']} pictures"
    return f"wrote an encoder to {options.output}: {measured} on {of} held out"


if __name__ == "__main__":
    run_command(main)
