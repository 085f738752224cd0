"""Pre-trains an image encoder on pages: `python -m models.pretrain`."""

import argparse

from beam_pipelines.shell.command import ArgumentParser, command, run_command
from models.training_options import add_training_options

# Those of `models.pretraining.methods`, which imports TensorFlow.
_METHODS = ["courier", "simclr", "simsiam", "moco_v2", "swav", "supervised", "clip", "maskclip", "m6_moe", "none"]


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Pre-trains an image encoder on what users click after what they clicked, or on pictures.")
    parser.add_argument("--data", default="artifacts/dataset", help="from beam_pipelines.build")
    parser.add_argument("--output", default="artifacts/encoder", help="run directory to write")
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="courier",
        help="how the encoder learns; none: not at all, it is the published one of the configuration",
    )
    add_training_options(parser, config="YAML file, or a preset in models/configs (unset: that of the method)")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Trains an encoder, writes its run directory and returns the closing line."""
    import numpy as np

    from models.config import load_config
    from models.data.dataset import Dataset
    from models.pretraining.config import PretrainConfig
    from models.pretraining.methods import AS_PUBLISHED, PRESETS
    from models.pretraining.pretrain import pretrain
    from models.training.replicas import configured_workers

    config = load_config(PretrainConfig, options.config or PRESETS[options.method], options.overrides)
    if options.method == AS_PUBLISHED:
        pretrain(options.data, options.output, config=config, method=options.method, overwrite=options.overwrite)
        return f"wrote the published encoder {config.encoder.weights} as it is to {options.output}"
    dataset = Dataset(options.data, options.max_bad_shards)
    run, pages = pretrain(
        dataset,
        options.output,
        config=config,
        method=options.method,
        restart=options.restart,
        overwrite=options.overwrite,
    )
    if run is None:
        return f"did its part of the training; the chief of the {configured_workers()} workers writes {options.output}"
    best = ""
    if gauc := run.history.get("val_similarity_gauc"):
        epoch = int(np.argmax(np.array(gauc, float)))
        best = f", epoch {epoch + 1} with similarity GAUC {gauc[epoch]:.4f} on later pages"
    left_out = f", {len(dataset.bad_shards)} damaged shards left out" if dataset.bad_shards else ""
    return f"wrote a {options.method} encoder to {options.output} ({pages} pages{left_out}{best})"


if __name__ == "__main__":
    run_command(main)
