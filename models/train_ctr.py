"""Trains the CTR ranker: `python -m models.train_ctr`."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import about
from beam_pipelines.format.manifest import Window
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import ArgumentParser, CommandError, require_directory, run_command
from models.clustering.clusters import Clusters
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import GROUPS, TrainingBatches, page_batches, page_records, page_timestamps, split_by_share
from models.embeddings.embeddings import Embeddings, EmbeddingsMetadata
from models.evaluation.measure import measure
from models.evaluation.scored_pages import ScoredPages, score_pages
from models.features.adapt import adapt_features
from models.features.spec import resolve_features
from models.features.training_counts import count_training
from models.metrics.log_loss import candidate_weights
from models.ranker.calibrator import Calibrator, fit_isotonic, fit_platt, to_logits
from models.ranker.config import IMAGE_FEATURES, Monitor, TrainingConfig
from models.ranker.ranker import LOSS_WEIGHT, Ranker
from models.ranker.run import RankerMetadata, RankerRun
from models.ranker.warm_start import WarmStart
from models.training.checkpoints import Checkpoints
from models.training.lazy_adam import LazyAdam
from models.training.replicas import ends_with_other_workers, is_chief, training_strategy, workers
from models.training.resumable_fit import resumable_fit

_EXAMPLE_PAGES = 64
_VALIDATION_BATCH = 128
_DAY_MS = 86_400_000
_MAY_CHANGE = {"checkpoint_minutes"}  # keys that make no difference to what is learnt


class ValidationMetrics(keras.callbacks.Callback):
    """Adds metrics of the validation pages to the logs of each epoch, under their names with `val_` before them.

    Args:
        pages: batches of parsed pages.
        negative_rate: share of the unclicked candidates that is left on them.
    """

    def __init__(self, pages: tf.data.Dataset, negative_rate: float) -> None:
        super().__init__()
        self.pages = pages
        self.negative_rate = negative_rate

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """ScoredPages and measures."""
        metrics = measure(score_pages(self.model, self.pages), self.negative_rate)
        logs.update({f"val_{name}": metrics[name] for name in (*get_args(Monitor), "log_loss")})


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
    parser.add_argument(
        "--warm-start", type=Path, metavar="RUN", help="an earlier ranker whose weights this one begins with"
    )
    parser.add_argument("--config", help="YAML file, or a preset in models/configs (unset: the defaults)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="overrides a config key"
    )
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and shuffling")
    parser.add_argument(
        "--max-bad-shards", type=int, default=0, metavar="N", help="page shards that may be damaged and are left out"
    )
    parser.add_argument(
        "--restart", action="store_true", help="throw away the checkpoints of an interrupted run instead of going on"
    )
    parser.add_overwrite()
    args = parser.parse_args(argv)

    config = load_config(TrainingConfig, args.config, args.overrides)
    dataset = Dataset(require_directory(args.data, "--data", "beam_pipelines.build"), args.max_bad_shards)
    manifest = dataset.manifest
    items, users = dataset.items(), dataset.users()
    resolved = {"features": resolve_features(config.ranker.features, items.schema, users.schema)}
    if config.ranker.lengths.candidates == 0:
        resolved["lengths"] = config.ranker.lengths.model_copy(update={"candidates": manifest.max_candidates})
    config = config.model_copy(update={"ranker": config.ranker.model_copy(update=resolved)})
    train = dataset.split("train")
    if train.negative_rate == 0:
        raise CommandError(
            f"--data: the train pages of {args.data} have clicked candidates only; build it with --train-negatives "
            "above 0"
        )
    embeddings, clusters, image_tables = None, None, {}
    if args.image_feature in ("vector", "simscore"):
        with about("embeddings"):
            loaded = Embeddings.load(args.embeddings)
            embeddings = loaded.metadata
            _check_artifact(embeddings, dataset, args.allow_window_overlap)
        image_tables = {"image_embeddings": np.asarray(loaded.vectors)}
    elif args.image_feature == "cluster_id":
        with about("clusters"):
            loaded = Clusters.load(args.clusters)
            clusters = loaded.metadata
            _check_artifact(clusters.embeddings, dataset, args.allow_window_overlap)
        image_tables = {"cluster_ids": loaded.ids, "centers": loaded.centers}
    warm_start = None if args.warm_start is None else WarmStart(args.warm_start)
    strategy = training_strategy()
    chief = is_chief(strategy)

    inputs = [args.data, args.embeddings, args.clusters, *([args.warm_start] if args.warm_start else [])]
    whole = whole_directory(args.output, overwrite=args.overwrite, inputs=inputs)
    # Of several workers, one writes.
    with ends_with_other_workers(strategy), whole if chief else contextlib.nullcontext() as output:
        if manifest.notice:
            print(f"notice: {manifest.notice}")
        timestamps = page_timestamps(dataset, "train")
        fit_window, validation_window, fit_pages = split_by_share(timestamps, train.window, config.validation_share)
        if fit_pages == len(timestamps):
            raise CommandError(
                f"--data: the {len(timestamps)} train pages leave none for validation "
                f"(validation_share={config.validation_share})"
            )
        print(f"{fit_pages} pages to learn on, {len(timestamps) - fit_pages} later ones to validate", flush=True)
        counts, occurrences = count_training(dataset, fit_window.last)
        features = adapt_features(
            config.ranker.features, items, users, counts, token_buckets=config.ranker.token_buckets, **image_tables
        )

        checkpoints = Checkpoints(
            args.output.with_name(f"{args.output.name}.checkpoints"),
            {
                **config.flat(exclude=_MAY_CHANGE),
                "image feature": args.image_feature,
                "seed": args.seed,
                "dataset": manifest.digest(),
                "damaged shards": dataset.bad_shards,
                "embeddings": embeddings.digest() if embeddings else None,
                "clusters": clusters.digest() if clusters else None,
                "warm start": warm_start.metadata.digest() if warm_start else None,
            },
            writes=chief,
            restart=args.restart,
        )
        keras.utils.set_random_seed(args.seed)
        with strategy.scope():
            ranker = Ranker(config.ranker, features.sizes, args.image_feature, train.negative_rate)
            optimizer = LazyAdam(
                config.learning_rate,
                weight_decay=config.weight_decay,
                average=config.average_weights,
                global_clipnorm=config.clip_norm,
            )
            ranker.compile(optimizer=optimizer, jit_compile=False)
            ranker.fill(features)
            if warm_start is not None:
                print(warm_start.fill(ranker, items, users, embeddings, clusters), flush=True)
        later_pages = page_batches(
            dataset,
            "train",
            config.ranker.lengths,
            batch_size=_VALIDATION_BATCH,
            window=validation_window,
            to_longest=GROUPS,
        )
        with checkpoints:
            history = _fit(ranker, config, dataset, fit_window, fit_pages, later_pages, checkpoints, args.seed)
        if not chief:
            return f"did its part of the training; the chief of the {workers(strategy)} workers writes {args.output}"
        scores = score_pages(ranker, later_pages)
        ranker.calibrator = _calibrator(config.calibration, scores, train.negative_rate)
        best = {
            "epoch": int(np.argmax(np.nan_to_num(history[f"val_{config.monitor}"], nan=-np.inf))) + 1,
            **measure(scores.calibrated(ranker.calibrator), train.negative_rate),
        }

        examples = page_records(dataset, "train", window=validation_window).take(_EXAMPLE_PAGES)
        metadata = RankerMetadata(
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
        )
        RankerRun.save(
            output,
            ranker,
            metadata,
            config,
            items=items,
            users=users,
            history=history,
            example_records=[*examples.as_numpy_iterator()],
            training_counts=occurrences,
        )
    checkpoints.remove()
    left_out = f", {len(dataset.bad_shards)} damaged shards left out" if dataset.bad_shards else ""
    return (
        f"wrote the ranker ({args.image_feature}) of epoch {best['epoch']} to {args.output}: "
        f"validation GAUC {best['gauc_page_mean']:.4f}, AUC {best['auc']:.4f}{left_out}"
    )


def _fit(
    ranker: Ranker,
    config: TrainingConfig,
    dataset: Dataset,
    window: Window,
    pages: int,
    later_pages: tf.data.Dataset,
    checkpoints: Checkpoints,
    seed: int,
) -> dict[str, list[float]]:
    """Trains, and leaves the ranker with the weights of its best epoch; returns the logs of the epochs."""
    strategy = ranker.distribute_strategy
    batches = TrainingBatches(
        dataset,
        "train",
        window=window,
        pages=pages,
        lengths=config.ranker.lengths,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=seed,
    )
    weigh = _loss_weights(config.loss_half_life_days, window.last)
    return resumable_fit(
        ranker,
        lambda step: strategy.distribute_datasets_from_function(
            lambda context: batches.from_step(step, context).map(weigh).map(_with_labels)
        ),
        checkpoints,
        steps_per_epoch=batches.steps_per_epoch,
        epochs=config.epochs,
        checkpoint_minutes=config.checkpoint_minutes,
        monitor=f"val_{config.monitor}",
        patience=config.patience,
        verbose=1 if sys.stdout.isatty() else 2,
        callbacks=[ValidationMetrics(later_pages, ranker.negative_rate)],
        shuffle=False,  # the batches are shuffled already
    )


def _with_labels(page: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    page = dict(page)
    return page, {name: page.pop(name) for name in ("clicked", "converted", "dwell")}


def _loss_weights(half_life_days: float | None, last: int) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Adds `LOSS_WEIGHT` to pages: a half for every half-life that they are older than the moment `last`."""
    if half_life_days is None:
        return lambda page: page

    def weigh(page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        half_lives = tf.cast(last - page["timestamp"], tf.float32) / (half_life_days * _DAY_MS)
        return {**page, LOSS_WEIGHT: 2.0**-half_lives}

    return weigh


def _calibrator(kind: str, scores: ScoredPages, negative_rate: float) -> Calibrator:
    """Fits a calibrator on what the validation pages say."""
    if kind == "none":
        return Calibrator()
    if scores.clicked.all() or not scores.clicked.any():
        print("warning: not calibrated: the validation candidates are all clicked or all not", file=sys.stderr)
        return Calibrator()
    fit = {"platt": fit_platt, "isotonic": fit_isotonic}[kind]
    return fit(to_logits(scores.ctr), scores.clicked, candidate_weights(scores.clicked, negative_rate))


def _check_artifact(metadata: EmbeddingsMetadata, dataset: Dataset, allow_window_overlap: bool) -> None:
    """Refuses embeddings of other items or pictures, or of an encoder that has seen what the ranker learns on."""
    metadata.check_matches(dataset)
    if not allow_window_overlap:
        metadata.check_no_leakage(dataset)


if __name__ == "__main__":
    run_command(main)
