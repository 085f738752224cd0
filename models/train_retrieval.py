"""Trains a recommender that retrieves candidates: `python -m models.train_retrieval`."""

import argparse
from pathlib import Path

from beam_pipelines.format.errors import about
from beam_pipelines.shell.command import ArgumentParser, command, run_command
from models.training_options import add_training_options, add_window_option


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "Trains a recommender that retrieves candidates to rank, from the clicks or payments of a dataset or from a "
        "public benchmark file."
    )
    parser.add_argument(
        "--data",
        default="artifacts/dataset",
        help="from beam_pipelines.build; or a file with the columns userID, itemID and x_label",
    )
    parser.add_argument("--output", default="artifacts/retrieval", help="run directory to write")
    parser.add_argument(
        "--method",
        metavar="NAME",
        default="bpr",
        help="bpr, mmgcn, dualgnn, lattice, slmrec, bm3, mgcn or two_tower; or MODULE:CLASS of your own",
    )
    parser.add_argument(
        "--embeddings",
        nargs="+",
        action="append",
        metavar="EMBEDDINGS",
        help="item features: from models.embed or models.whiten, or .npy files; several are put one behind the other, "
        "and the option again is another kind of features (unset: artifacts/embeddings, for methods that need them)",
    )
    parser.add_argument(
        "--interactions", choices=("click", "payment"), default="click", help="what counts on the pages of a dataset"
    )
    add_window_option(parser)
    add_training_options(
        parser, config="YAML file (unset: the defaults of the method)", seed="of initialisation and sampling"
    )
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Trains a recommender and returns the closing line."""
    from models.config import load_config
    from models.data.dataset import Dataset
    from models.retrieval.interaction_file import read_interactions
    from models.retrieval.interactions import Interactions
    from models.retrieval.item_features import read_item_features
    from models.retrieval.methods import find_method
    from models.retrieval.train import train_retrieval

    method = find_method(options.method)
    config = load_config(method.Config, options.config, options.overrides)
    dataset = None
    with about("data"):
        if Path(options.data).is_file():
            interactions = read_interactions(options.data)
        else:
            dataset = Dataset(options.data, options.max_bad_shards)
            interactions = Interactions.from_pages(dataset, options.interactions, config.validation_share)
    given = options.embeddings
    if given is None:
        given = [["artifacts/embeddings"]] if method.reads_features == "always" else []
    with about("embeddings"):
        features = [
            read_item_features(paths, interactions, dataset, allow_window_overlap=options.allow_window_overlap)
            for paths in given
        ]
    run = train_retrieval(
        interactions,
        options.output,
        method=options.method,
        features=features,
        config=config,
        dataset=dataset,
        seed=options.seed,
        restart=options.restart,
        overwrite=options.overwrite,
    )
    best, test = run.metadata.validation, run.metadata.test
    tested = "" if test is None else f", test {_figures(test)}"
    return (
        f"wrote the recommender ({options.method}) of epoch {best['epoch']} to {options.output}: "
        f"validation {_figures(best)}{tested}"
    )


def _figures(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in ("recall@20", "recall@50", "ndcg@50"))


if __name__ == "__main__":
    run_command(main)
