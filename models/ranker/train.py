"""The whole recipe of a ranker, from a dataset to a run directory."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, get_args

import keras
import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError, InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import say
from models.data.dataset import Dataset
from models.data.outcomes import Outcomes, count_outcomes, learnable_outcomes
from models.data.pages import GROUPS, Pages, TrainingBatches, page_batches, with_labels
from models.evaluation.measure import measure
from models.evaluation.scored_pages import ScoredPages, score_pages
from models.metrics.log_loss import candidate_weights
from models.ranker.adapt import PictureSources, adapt_to_pages, check_negatives, picture_inputs, resolve
from models.ranker.calibrator import Calibrator, fit_isotonic, fit_platt, to_logits
from models.ranker.config import Monitor, RankerConfig, TrainingConfig
from models.ranker.picture_ranker import PictureRanker
from models.ranker.ranker import LOSS_WEIGHT, Ranker, default_optimizer
from models.ranker.restarted_embeddings import RestartedEmbeddings
from models.ranker.run import RankerMetadata, RankerRun
from models.ranker.warm_start import WarmStart
from models.training.checkpoints import Checkpoints
from models.training.replicas import ends_with_other_workers, is_chief, training_strategy
from models.training.resumable_fit import resumable_fit

_EXAMPLE_PAGES = 64
VALIDATION_BATCH = 128
_DAY_MS = 86_400_000
_MAY_CHANGE = {"checkpoint_minutes"}  # keys that make no difference to what is learnt


class ValidationMetrics(keras.callbacks.Callback):
    """Adds the metrics of reports on validation pages to the logs of each epoch, under their names with `val_` before.

    Args:
        pages: batches of parsed pages, with their labels.
        negative_rate: share of the unclicked candidates that is left on them.
    """

    def __init__(self, pages: tf.data.Dataset, negative_rate: float) -> None:
        super().__init__()
        self.pages = pages
        self.negative_rate = negative_rate

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Scores and measures."""
        metrics = measure(score_pages(self.model, self.pages), self.negative_rate)
        if logs is not None:
            logs.update({f"val_{name}": metrics[name] for name in (*get_args(Monitor), "log_loss")})


def train_ranker(
    data: Dataset | Location | str,
    output: Location | str,
    *,
    pictures: PictureSources = None,
    image_feature: str | Sequence[str] | None = None,
    allow_window_overlap: bool = False,
    warm_start: Location | str | None = None,
    extend: bool = False,
    config: TrainingConfig | None = None,
    seed: int = 0,
    restart: bool = False,
    overwrite: bool = False,
) -> RankerRun | None:
    """Trains a ranker on the train pages of a dataset: earlier ones to learn on, later ones to choose the epoch.

    The steps are those of `Ranker.adapt` and `fit` on the same pages with the same seed. What is added: checkpoints
    in mid-epoch, so that a run that was killed goes on and ends with the same ranker; several workers; the calibrator;
    and a run directory that evaluation and export read.

    Args:
        data: the dataset.
        output: the run directory to write.
        pictures: embeddings of the dataset's items, or clusters, or several of these; `None` for none.
        image_feature: how pictures enter, by one name or several; unset: `cluster_id` for clusters, `simscore` for
            embeddings.
        allow_window_overlap: whether the pictures' encoder may have learned on the training pages.
        warm_start: run directory of an earlier ranker that this one begins with.
        extend: whether its scales stay, and its vocabularies and counts of items, to which these pages only add: for
            training on a day at a time, on whose pages most items and users are missing. Otherwise the vocabularies are
            those of these pages.
        config: architecture and training; unset: the defaults.
        seed: of initialisation and shuffling; sets Keras' global one.
        restart: whether to throw away checkpoints of an interrupted run, instead of going on.
        overwrite: whether to replace an output that exists.

    Returns:
        The run; `None` in a worker that is not the chief, which writes.

    Raises:
        InputError: an argument, or what it names, cannot be used; nothing is written then.

    Example:
        >>> run = train_ranker("artifacts/dataset", "artifacts/ranker", pictures=Clusters.load("artifacts/clusters"))
        >>> run.metadata.validation["gauc_page_mean"]
    """
    if extend and warm_start is None:
        raise InputError("`extend` needs `warm_start`, the ranker to go on from")
    config, output = config or TrainingConfig(), as_location(output)
    dataset = data if isinstance(data, Dataset) else Dataset(data)
    manifest, pictured = dataset.manifest, picture_inputs(pictures, image_feature)
    config = config.model_copy(update={"ranker": resolve(config.ranker, dataset)})
    with about("warm_start"):
        earlier = None if warm_start is None else WarmStart(warm_start)
    strategy = training_strategy()
    chief = is_chief(strategy)
    inputs = [dataset.path, *(each.path for each in pictured.sources), *([earlier.path] if earlier else [])]
    whole = whole_directory(output, overwrite=overwrite, inputs=inputs)
    # Of several workers, one writes.
    with ends_with_other_workers(strategy), whole if chief else contextlib.nullcontext() as scratch:
        if manifest.notice:
            say(f"notice: {manifest.notice}")
        with about("data"):
            pages = dataset.pages("train")
            check_negatives(pages)
            train, later = _split(pages, config.validation_share)
            outcomes = learnable_outcomes(train)
            later_outcomes = count_outcomes(later)
            if common := later_outcomes.one_class():
                raise InputError(
                    f"the {len(later)} train pages that validate, the latest ones, have {common}; raise "
                    f"validation_share ({config.validation_share})"
                )
        _check_tasks(config.ranker, outcomes)
        _check_monitor(config, later_outcomes)
        say(f"{len(train)} pages to learn on, {len(later)} later ones to validate")
        embeddings = pictured.embeddings_metadata()
        clusters = pictured.clusters.metadata if pictured.clusters else None
        replaced = pictured.clusters.replaced if pictured.clusters else None
        items, users = dataset.items(), dataset.users()
        adapted = adapt_to_pages(
            train,
            config.ranker,
            pictures=pictures,
            image_feature=pictured.image_feature,
            allow_window_overlap=allow_window_overlap,
            known=earlier.known(items, users, embeddings, clusters) if earlier and extend else None,
        )
        of_run = {
            **config.flat(exclude=_MAY_CHANGE),
            "image feature": pictured.image_feature,
            "seed": seed,
            "dataset": manifest.digest(),
            "damaged shards": dataset.bad_shards,
            "embeddings": ", ".join(each.metadata.digest() for each in pictured.embeddings) or None,
            "clusters": clusters.digest() if clusters else None,
            "warm start": earlier.metadata.digest() if earlier else None,
            **({"extend": True} if extend else {}),
        }
        checkpoints, picture_checkpoints = (
            Checkpoints(output.with_name(f"{output.name}.{name}"), of_run, writes=chief, restart=restart)
            for name in ("checkpoints", "make.checkpoints")
        )
        keras.utils.set_random_seed(seed)
        with strategy.scope():
            ranker = Ranker(adapted.config, adapted.features.sizes, pictured.image_feature, train.negative_rate)
            ranker.compile(default_optimizer(config))
            ranker.fill(adapted.features)
            if earlier is not None:
                say(earlier.fill(ranker, items, users, embeddings, clusters, replaced))
        later_batches = page_batches(
            dataset,
            "train",
            adapted.config.lengths,
            batch_size=VALIDATION_BATCH,
            window=later.window,
            to_longest=GROUPS,
        )
        if ranker.items.pictures.towers:
            say("pictures learn first, alone")
            of_pictures = config.model_copy(update={**config.make.model_dump(), "restart_embeddings": False})
            with strategy.scope():
                picture_ranker = PictureRanker(ranker)
                picture_ranker.compile(default_optimizer(of_pictures))
            with picture_checkpoints:
                _fit(picture_ranker, of_pictures, train, later_batches, picture_checkpoints, seed)
            with strategy.scope():
                picture_ranker.give_to(ranker)
            keras.utils.set_random_seed(seed)  # whatever of this stage an earlier run has done
        with checkpoints:
            history = _fit(ranker, config, train, later_batches, checkpoints, seed)
        if scratch is None:  # not the chief
            return None
        scores = score_pages(ranker, later_batches)
        ranker.calibrator = fit_calibrator(config.calibration, scores, train.negative_rate)
        best = {
            "epoch": int(np.argmax(np.array(history[f"val_{config.monitor}"], float))) + 1,
            **measure(scores.calibrated(ranker.calibrator), train.negative_rate),
        }
        metadata = RankerMetadata(
            image_feature=pictured.image_feature,
            seed=seed,
            dataset_digest=manifest.digest(),
            item_ids_sha256=manifest.items.ids_sha256,
            user_ids_sha256=manifest.users.ids_sha256,
            window=pages.window,
            negative_rate=train.negative_rate,
            validation=best,
            embeddings=embeddings,
            clusters=clusters,
            notice=manifest.notice,
        )
        RankerRun.save(
            scratch,
            ranker,
            metadata,
            config,
            items=items,
            users=users,
            history=history,
            example_records=[*later.records().take(_EXAMPLE_PAGES).as_numpy_iterator()],
            training_counts=adapted.occurrences + (earlier.training_counts(items) if earlier and extend else 0),
        )
    checkpoints.remove()
    picture_checkpoints.remove()
    return RankerRun(output)


def _split(pages: Pages, validation_share: float) -> tuple[Pages, Pages]:
    try:
        return pages.split(1 - validation_share)
    except InputError as error:
        raise InputError(
            f"the {len(pages)} train pages leave none for validation (validation_share={validation_share})"
        ) from error


def _check_tasks(ranker: RankerConfig, outcomes: Outcomes) -> None:
    """Refuses tasks that the pages say nothing of."""
    seconds, clicked = ranker.long_visit_seconds, f"none of the {outcomes.clicks} clicked candidates to learn on"
    for task, count, missing in (
        ("pairwise", outcomes.mixed_pages, "no page to learn on has clicked and unclicked candidates"),
        ("jrc", outcomes.mixed_pages, "no page to learn on has clicked and unclicked candidates"),
        ("ctcvr", outcomes.conversions, f"{clicked} converted"),
        ("long_visit", outcomes.longest_visit >= seconds, f"{clicked} has a dwell time of {seconds:g} seconds or more"),
        ("dwell", outcomes.visits, f"{clicked} has a dwell time"),
    ):
        if getattr(ranker.tasks, task) and not count:
            raise ConfigurationError(f"ranker.tasks.{task}: {missing}; 0 leaves the task out")


def _check_monitor(config: TrainingConfig, later: Outcomes) -> None:
    """Refuses a metric that is undefined on the validation pages, and so chooses no epoch."""
    kind = {"gauc_page_mean": "page", "gauc_user_mean": "user"}.get(config.monitor)
    if kind and not getattr(later, f"mixed_{kind}s"):
        raise ConfigurationError(
            f"monitor: {config.monitor} is undefined, for no {kind} of the train pages that validate has clicked and "
            f"unclicked candidates; set monitor=auc, or raise validation_share ({config.validation_share})"
        )


def _fit(
    ranker: Ranker | PictureRanker,
    config: TrainingConfig,
    train: Pages,
    later_batches: tf.data.Dataset,
    checkpoints: Checkpoints,
    seed: int,
) -> dict[str, list[float | None]]:
    """Trains, and leaves the ranker with the weights of its best epoch; returns the logs of the epochs."""
    strategy = ranker.distribute_strategy
    batches = TrainingBatches(
        train.dataset,
        train.split_name,
        window=train.window,
        pages=len(train),
        lengths=ranker.config.lengths,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=seed,
    )
    weigh = _loss_weights(config.loss_half_life_days, train.window.last)
    callbacks: list[keras.callbacks.Callback] = [ValidationMetrics(later_batches, ranker.negative_rate)]
    if config.restart_embeddings:
        callbacks.append(RestartedEmbeddings(batches.steps_per_epoch, seed))
    return resumable_fit(
        ranker,
        lambda step: strategy.distribute_datasets_from_function(
            lambda context: batches.from_step(step, context).map(weigh).map(with_labels)
        ),
        checkpoints,
        steps_per_epoch=batches.steps_per_epoch,
        epochs=config.epochs,
        checkpoint_minutes=config.checkpoint_minutes,
        monitor=f"val_{config.monitor}",
        patience=config.patience,
        callbacks=callbacks,
    )


def _loss_weights(half_life_days: float | None, last: int) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Adds `LOSS_WEIGHT` to pages: a half for every half-life that they are older than the moment `last`."""
    if half_life_days is None:
        return lambda page: page

    def weigh(page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        half_lives = tf.cast(last - page["timestamp"], tf.float32) / (half_life_days * _DAY_MS)
        return {**page, LOSS_WEIGHT: 2.0**-half_lives}

    return weigh


def fit_calibrator(kind: str, scores: ScoredPages, negative_rate: float) -> Calibrator:
    """Fits a calibrator on what the validation pages say.

    Args:
        kind: of `TrainingConfig.calibration`.
        scores: of these pages, not calibrated.
        negative_rate: share of the unclicked candidates that they kept.
    """
    if kind == "none":
        return Calibrator()
    fit = {"platt": fit_platt, "isotonic": fit_isotonic}[kind]
    return fit(to_logits(scores.ctr), scores.clicked, candidate_weights(scores.clicked, negative_rate))
