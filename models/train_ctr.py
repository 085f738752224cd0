"""Trains the CTR ranker: `python -m models.train_ctr`."""

import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from beam_pipelines.command import ArgumentParser, CommandError, require_directory, run_command, whole_directory
from beam_pipelines.manifest import Window
from beam_pipelines.records import HISTORIES
from models.artifacts import EmbeddingsMetadata, RankerMetadata
from models.config import load_config
from models.ctr.config import IMAGE_FEATURES, TrainingConfig
from models.ctr.features import count_occurrences, make_feature_tables
from models.ctr.ranker import CONFIG_FILE, SIZES_FILE, WEIGHTS_FILE, Ranker
from models.ctr.scoring import measure, score_pages
from models.data.dataset import Dataset
from models.data.pages import PageLengths, page_batches, page_records, page_timestamps
from models.embeddings.store import load_cluster_ids, load_embeddings
from models.training.replicas import mirrored_strategy

ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"
EXAMPLE_PAGES_FILE = "example_pages.tfrecord"
TRAINING_COUNTS_FILE = "training_counts.npy"
_EXAMPLE_PAGES = 64


class ValidationMetrics(keras.callbacks.Callback):
    """Adds the metrics of the validation pages to the logs of each epoch: `val_gauc`, `val_auc`, `val_log_loss`.

    Args:
        pages: batches of parsed pages.
        negative_rate: share of the unclicked candidates that is left on them.
    """

    def __init__(self, pages: tf.data.Dataset, negative_rate: float) -> None:
        super().__init__()
        self.pages = pages
        self.negative_rate = negative_rate
        self.history: list[dict[str, Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Scores and measures."""
        metrics = measure(score_pages(self.model, self.pages), self.negative_rate)
        self.history.append({"epoch": epoch + 1, **metrics})
        logs.update(val_gauc=metrics["gauc_page_mean"], val_auc=metrics["auc"], val_log_loss=metrics["log_loss"])


def main(argv: Sequence[str] | None = None) -> str:
    """Trains a ranker on the train pages of a dataset and returns the closing line."""
    parser = ArgumentParser("Trains the CTR ranker on the train pages of a dataset.")
    parser.add_argument("--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build")
    parser.add_argument("--output", type=Path, default=Path("artifacts/ranker"), help="run directory to write")
    parser.add_argument("--image-feature", choices=IMAGE_FEATURES, default="cluster_id", help="how pictures enter")
    parser.add_argument(
        "--embeddings",
        type=Path,
        default=Path("artifacts/embeddings"),
        help="from models.embed or models.whiten (vector, simscore)",
    )
    parser.add_argument(
        "--clusters", type=Path, default=Path("artifacts/clusters"), help="from models.cluster (cluster_id)"
    )
    parser.add_argument(
        "--allow-window-overlap",
        action="store_true",
        help="accept pictures encoded by an encoder that has seen the training pages",
    )
    parser.add_argument("--config", help="YAML file, or a preset in models/configs (unset: the defaults)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides a config key")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and shuffling")
    parser.add_argument(
        "--max-bad-shards", type=int, default=0, metavar="N", help="page shards that may be damaged and are left out"
    )
    parser.add_overwrite()
    args = parser.parse_args(argv)

    config = load_config(TrainingConfig, args.config, args.set)
    dataset = Dataset(require_directory(args.data, "--data", "beam_pipelines.build"), args.max_bad_shards)
    manifest = dataset.manifest
    if config.ranker.lengths.candidates == 0:
        lengths = config.ranker.lengths.model_copy(update={"candidates": manifest.max_candidates})
        config = config.model_copy(update={"ranker": config.ranker.model_copy(update={"lengths": lengths})})
    train = dataset.split("train")
    if train.negative_rate == 0:
        raise CommandError(
            f"--data: the train pages of {args.data} have clicked candidates only; build it with --train-negatives "
            "above 0"
        )
    embeddings, clusters, image_tables = None, None, {}
    if args.image_feature in ("vector", "simscore"):
        embeddings, vectors, _ = load_embeddings(args.embeddings)
        _check_artifact(embeddings, "--embeddings", dataset, args.allow_window_overlap)
        image_tables = {"image_embeddings": np.asarray(vectors)}
    elif args.image_feature == "cluster_id":
        clusters, cluster_ids = load_cluster_ids(args.clusters)
        _check_artifact(clusters.embeddings, "--clusters", dataset, args.allow_window_overlap)
        image_tables = {"cluster_ids": cluster_ids, "num_clusters": clusters.num_clusters}

    with whole_directory(
        args.output, overwrite=args.overwrite, inputs=[args.data, args.embeddings, args.clusters]
    ) as output:
        if manifest.notice:
            print(f"notice: {manifest.notice}")
        timestamps = np.sort(page_timestamps(dataset, "train"))
        fit_pages = len(timestamps) - round(len(timestamps) * config.validation_share)
        cut = int(timestamps[max(fit_pages, 1) - 1])
        fit_window = Window(first=train.window.first, last=cut)
        validation_window = Window(first=cut + 1, last=train.window.last)
        fit_pages = int((timestamps <= cut).sum())
        if fit_pages == len(timestamps):
            raise CommandError(
                f"--data: the {len(timestamps)} train pages leave none for validation "
                f"(validation_share={config.validation_share})"
            )
        print(f"{fit_pages} pages to learn on, {len(timestamps) - fit_pages} later ones to validate", flush=True)

        whole = PageLengths(candidates=manifest.max_candidates, **HISTORIES)
        items, users = dataset.items(), dataset.users()
        counts, later = (
            count_occurrences(
                page_batches(dataset, "train", whole, batch_size=config.batch_size, window=window),
                items=len(items),
                users=len(users),
            )
            for window in (fit_window, validation_window)
        )
        tables = make_feature_tables(config.ranker, items, users, counts, **image_tables)

        keras.utils.set_random_seed(args.seed)
        with mirrored_strategy().scope():
            ranker = Ranker(config.ranker, tables.sizes, args.image_feature, train.negative_rate)
            ranker.compile(optimizer=keras.optimizers.Adam(config.learning_rate))
        tables.fill(ranker)
        batches = {"lengths": config.ranker.lengths, "batch_size": config.batch_size}
        fit = page_batches(dataset, "train", window=fit_window, shuffle_seed=args.seed, **batches)
        later_pages = page_batches(dataset, "train", window=validation_window, **batches)
        validation = ValidationMetrics(later_pages, train.negative_rate)
        stop = keras.callbacks.EarlyStopping(
            monitor="val_gauc", mode="max", patience=config.patience, restore_best_weights=True
        )
        ranker.fit(
            fit.apply(tf.data.experimental.assert_cardinality(math.ceil(fit_pages / config.batch_size))),
            epochs=config.epochs,
            shuffle=False,  # the pages are
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=[validation, stop],
        )
        best = max(validation.history, key=lambda metrics: metrics["gauc_page_mean"])

        ranker.save_weights(output / WEIGHTS_FILE)
        (output / CONFIG_FILE).write_text(config.to_yaml())
        (output / SIZES_FILE).write_text(tables.sizes.to_yaml())
        shutil.copyfile(dataset.path / manifest.items.file.path, output / ITEMS_FILE)
        shutil.copyfile(dataset.path / manifest.users.file.path, output / USERS_FILE)
        np.save(output / TRAINING_COUNTS_FILE, counts.items + later.items)
        with tf.io.TFRecordWriter(str(output / EXAMPLE_PAGES_FILE)) as writer:
            records = page_records(dataset, "train", window=validation_window)
            for record in records.take(_EXAMPLE_PAGES).as_numpy_iterator():
                writer.write(record)
        RankerMetadata(
            image_feature=args.image_feature,
            seed=args.seed,
            dataset_digest=manifest.digest(),
            item_ids_sha256=manifest.items.ids_sha256,
            user_ids_sha256=manifest.users.ids_sha256,
            window=train.window,
            negative_rate=train.negative_rate,
            validation=best,
            embeddings=embeddings,
            clusters=clusters,
            notice=manifest.notice,
        ).write(output)
    left_out = f", {len(dataset.bad_shards)} damaged shards left out" if dataset.bad_shards else ""
    return (
        f"wrote the ranker ({args.image_feature}) of epoch {best['epoch']} to {args.output}: "
        f"validation GAUC {best['gauc_page_mean']:.4f}, AUC {best['auc']:.4f}{left_out}"
    )


def _check_artifact(metadata: EmbeddingsMetadata, option: str, dataset: Dataset, allow_window_overlap: bool) -> None:
    """Refuses embeddings of other items or pictures, or of an encoder that has seen what the ranker learns on."""
    if metadata.item_ids_sha256 != dataset.manifest.items.ids_sha256:
        raise CommandError(
            f"{option}: made for the items of another dataset than {dataset.path}; run models.embed on this one"
        )
    if metadata.pictures_sha256 != dataset.manifest.pictures_sha256:
        raise CommandError(
            f"{option}: made from other pictures than those of {dataset.path}; run models.embed on this one"
        )
    window, train = metadata.encoder.window, dataset.split("train").window
    if window.overlaps(train) and not allow_window_overlap:
        raise CommandError(
            f"{option}: its encoder learned on pages from {window.first} to {window.last}, which overlap the train "
            f"pages from {train.first} to {train.last}: pictures would look better in training than they are. Build "
            "the dataset with --split-by-time, or pass --allow-window-overlap"
        )


if __name__ == "__main__":
    run_command(main)
