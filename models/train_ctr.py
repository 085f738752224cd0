"""Trains the CTR ranker: `python -m models.train_ctr`."""

import argparse

from beam_pipelines.format.errors import about
from beam_pipelines.shell.command import ArgumentParser, command, require_directory, run_command
from models.training_options import add_training_options, add_window_option


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Trains the CTR ranker on the train pages of a dataset.")
    parser.add_argument("--data", default="artifacts/dataset", help="from beam_pipelines.build")
    parser.add_argument("--output", default="artifacts/ranker", help="run directory to write")
    parser.add_argument(
        "--image-feature",
        metavar="NAMES",
        default="cluster_id",
        help="how pictures enter: none, or vector, simscore, simtier, cluster_id, semantic_id, make, several joined by "
        "commas",
    )
    parser.add_argument(
        "--embeddings",
        nargs="+",
        default=["artifacts/embeddings"],
        help="from models.embed or models.whiten, one or several (vector, simscore, simtier, make)",
    )
    parser.add_argument(
        "--clusters", default="artifacts/clusters", help="from models.cluster (cluster_id, semantic_id)"
    )
    add_window_option(parser)
    parser.add_argument("--warm-start", metavar="RUN", help="an earlier ranker whose weights this one begins with")
    parser.add_argument(
        "--extend",
        action="store_true",
        help="keep the scales and vocabularies of --warm-start, and only add to them: for training on a day at a time",
    )
    add_training_options(
        parser,
        config="YAML file, or a preset in models/configs (unset: the defaults)",
        seed="of initialisation and shuffling",
    )
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Trains a ranker on the train pages of a dataset and returns the closing line."""
    from models.clustering.clusters import Clusters
    from models.config import load_config
    from models.data.dataset import Dataset
    from models.embeddings.embeddings import Embeddings
    from models.ranker.adapt import check_pictures
    from models.ranker.config import TrainingConfig, image_features_of
    from models.ranker.pictures.pictures import PICTURE_FEATURES
    from models.ranker.train import train_ranker
    from models.training.replicas import configured_workers

    config = load_config(TrainingConfig, options.config, options.overrides)
    dataset = Dataset(require_directory(options.data, "--data", "beam_pipelines.build"), options.max_bad_shards)
    reads = {PICTURE_FEATURES[name].reads for name in image_features_of(options.image_feature)}
    pictures: list[Embeddings | Clusters] = []
    with about("embeddings"):
        for path in options.embeddings if "embeddings" in reads else []:
            pictures.append(Embeddings.load(path))
            check_pictures(pictures[-1], dataset, allow_window_overlap=options.allow_window_overlap)
    if "clusters" in reads:
        with about("clusters"):
            pictures.append(Clusters.load(options.clusters))
            check_pictures(pictures[-1], dataset, allow_window_overlap=options.allow_window_overlap)
    run = train_ranker(
        dataset,
        options.output,
        pictures=pictures,
        image_feature=options.image_feature,
        allow_window_overlap=options.allow_window_overlap,
        warm_start=options.warm_start,
        extend=options.extend,
        config=config,
        seed=options.seed,
        restart=options.restart,
        overwrite=options.overwrite,
    )
    if run is None:
        return f"did its part of the training; the chief of the {configured_workers()} workers writes {options.output}"
    best = run.metadata.validation
    left_out = f", {len(dataset.bad_shards)} damaged shards left out" if dataset.bad_shards else ""
    return (
        f"wrote the ranker ({options.image_feature}) of epoch {best['epoch']} to {options.output}: "
        f"validation GAUC {_figure(best['gauc_page_mean'])}, AUC {_figure(best['auc'])}{left_out}"
    )


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run_command(main)
