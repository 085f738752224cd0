"""The whole recipe of a recommender, from interactions to a run directory."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.manifest import ids_sha256
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import say
from models.data.dataset import Dataset
from models.retrieval.full_ranking import measure_ranking
from models.retrieval.interactions import Interactions
from models.retrieval.item_features import ItemFeatures
from models.retrieval.methods import find_method
from models.retrieval.recommender import EpochBegins
from models.retrieval.retriever import RecommenderConfig, Retriever
from models.retrieval.run import RetrievalMetadata, RetrievalRun
from models.training.checkpoints import Checkpoints
from models.training.lazy_adam import LazyAdam
from models.training.resumable_fit import resumable_fit

MONITOR = "recall@20"
"""The metric on validation interactions that chooses the epoch."""

_MAY_CHANGE = {"checkpoint_minutes"}  # keys that make no difference to what is learnt


class RankingValidation(keras.callbacks.Callback):
    """Adds the metrics of `measure_ranking` on the validation interactions to the logs of each epoch, after `val_`.

    Args:
        interactions: with validation interactions.
    """

    def __init__(self, interactions: Interactions) -> None:
        super().__init__()
        self.interactions = interactions

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: ranks and measures."""
        if logs is not None:
            users, items = self.model.vectors()
            measured = measure_ranking(users, items, self.interactions.validation, self.interactions.train)
            logs.update({f"val_{name}": value for name, value in measured.items() if "@" in name})


def train_retrieval(
    interactions: Interactions,
    output: Location | str,
    *,
    method: str = "bpr",
    features: Sequence[ItemFeatures] = (),
    config: RecommenderConfig | None = None,
    dataset: Dataset | None = None,
    seed: int = 0,
    restart: bool = False,
    overwrite: bool = False,
) -> RetrievalRun:
    """Trains a recommender and keeps the epoch with the highest recall@20 on the validation interactions.

    Checkpoints are written beside `output`; the same call goes on where it was interrupted, and ends with the same
    recommender.

    Args:
        interactions: what to learn from, to choose the epoch by and to measure with.
        output: the run directory to write.
        method: one of `METHODS`, or `MODULE:CLASS`.
        features: of the items, kind by kind, for methods that need them.
        config: of the method's class `Config`; unset: its defaults.
        dataset: the page dataset that the interactions come from, if they do.
        seed: of initialisation and sampling; sets Keras' global one.
        restart: whether to throw away checkpoints of an interrupted run, instead of going on.
        overwrite: whether to replace an output that exists.

    Raises:
        InputError: an argument, or what it names, cannot be used; nothing is written then.

    Example:
        >>> run = train_retrieval(read_interactions("baby.inter"), "artifacts/retrieval")
        >>> run.metadata.test["recall@20"]
    """
    kind, output = find_method(method), as_location(output)
    config = config or kind.Config()
    if not isinstance(config, kind.Config):
        raise InputError(f"`config` must be of {kind.Config.__name__} for {method}. Received: {type(config).__name__}")
    _check_features(kind, method, features)
    with about("data"):
        if not np.isin(interactions.validation.users, interactions.train.users).any():
            raise InputError("no user to learn from has a validation interaction to choose the epoch by")
        steps = kind.training_steps(interactions, dataset, config, seed)
    notice = dataset.manifest.notice if dataset is not None else ""
    with whole_directory(output, overwrite=overwrite, inputs=[dataset.path] if dataset else []) as directory:
        if notice:
            say(f"notice: {notice}")
        say(_summary(interactions))
        checkpoints = Checkpoints(
            output.with_name(f"{output.name}.checkpoints"),
            {
                **config.flat(exclude=_MAY_CHANGE),
                "method": method,
                "seed": seed,
                "interactions": interactions.digest(),
                "features": [[source.sha256 for source in each.sources] for each in features],
            },
            restart=restart,
        )
        keras.utils.set_random_seed(seed)
        model = kind.of(interactions, [each.vectors for each in features], dataset, config)
        model.compile(LazyAdam(config.learning_rate))
        with checkpoints:
            history = resumable_fit(
                model,
                steps.from_step,
                checkpoints,
                steps_per_epoch=steps.steps_per_epoch,
                epochs=config.epochs,
                checkpoint_minutes=config.checkpoint_minutes,
                monitor=f"val_{MONITOR}",
                patience=config.patience,
                callbacks=[EpochBegins(), RankingValidation(interactions)],
            )
        users, items = model.vectors()
        epoch = int(np.argmax(np.array(history[f"val_{MONITOR}"], float))) + 1
        validation = measure_ranking(users, items, interactions.validation, interactions.train)
        test = measure_ranking(users, items, interactions.test, interactions.train)
        metadata = RetrievalMetadata(
            method=method,
            seed=seed,
            interactions_sha256=interactions.digest(),
            counts=dict(interactions.counts),
            interactions=interactions.kind,
            dataset_digest=dataset.manifest.digest() if dataset else None,
            item_ids_sha256=ids_sha256(interactions.item_ids),
            user_ids_sha256=ids_sha256(interactions.user_ids),
            window=dataset.split("train").window if dataset else None,
            features=tuple(each.sources for each in features),
            validation={"epoch": epoch, **validation},
            test=test if test["users"] else None,
            notice=notice,
        )
        RetrievalRun.save(directory, model, metadata, interactions, history)
    checkpoints.remove()
    return RetrievalRun(output)


def _check_features(kind: type[Retriever], method: str, features: Sequence[ItemFeatures]) -> None:
    if features and kind.reads_features == "never":
        raise InputError(f"`embeddings` are of no use to the method {method}")
    if kind.reads_features == "always" and not features:
        raise InputError(f"`embeddings` must be given with the method {method}")


def _summary(interactions: Interactions) -> str:
    """What there is, and what was left out, in words."""
    parts = ((name, getattr(interactions, name)) for name in ("train", "validation", "test"))
    sizes = ", ".join(f"{len(pairs)} {name}" for name, pairs in parts)
    left_out = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in interactions.counts.items() if count and name != "rows"
    )
    return (
        f"{interactions.counts.get('rows', 0)} interactions of {interactions.num_users} users and "
        f"{interactions.num_items} items: {sizes}" + (f"; left out: {left_out}" if left_out else "")
    )
