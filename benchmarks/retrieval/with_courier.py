"""Recommenders with features as published, and with COURIER's embedding beside them, on the same interactions."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hm.runs import train_runs
from benchmarks.hm.similarity_pages import user_bootstrap
from benchmarks.pictures.hm import whiten
from benchmarks.pictures.published import embed
from benchmarks.retrieval.runs import Arm, Runs, Settings, compare_tuned
from models.data.dataset import Dataset
from models.embeddings.embeddings import Embeddings
from models.retrieval.full_ranking import rank_for_users
from models.retrieval.interactions import Interactions, Pairs
from models.retrieval.item_features import read_item_features
from models.retrieval.methods import METHODS

COMPARED = ("recall@20", "recall@50", "ndcg@50")
OURS = " + ours"
_NEW_AT = 100


def embeddings_of(dataset: Dataset, work_dir: Path, courier: Path | None = None) -> tuple[Path, Path]:
    """Embeddings as published, whitened, and COURIER's by `courier_cpu`; what the work directory lacks is made.

    Args:
        dataset: whose pictures are embedded, and on whose pre-training pages COURIER learns.
        work_dir: keeps both.
        courier: COURIER's, if they are elsewhere.
    """
    base = whiten(dataset, embed(dataset, work_dir)) / "embeddings"
    if courier is None:
        _, _, run = next(train_runs(dataset, work_dir, "courier_cpu", {"courier": []}, seeds=1, jobs=1))
        courier = run.path / "embeddings"
    return base, courier


def compare_with_courier(
    options: argparse.Namespace,
    dataset: Dataset,
    interactions: Interactions,
    base: Path,
    courier: Path,
    settings: Settings,
    training: Mapping[str, Any],
    prefix: str = "",
) -> dict[str, Any]:
    """Trains what is missing, as long as there is time, and summarises.

    Args:
        options: of `add_run_options` and `quick`.
        dataset: whose items have the embeddings.
        interactions: to learn from, to tune on and to measure with.
        base: embeddings as published.
        courier: COURIER's; `ours` has them beside `base`.
        settings: by method, those that are tried, separately for `base` and `ours`.
        training: keys of the configuration that are the same for all methods, unless a setting has them.
        prefix: of the names of the runs.

    Returns:
        What the interactions are, and `methods`: see `compare_tuned`. Those with `ours` have `gain`: mean and 95 %
        interval of the difference from `base`, paired by user, of means over seeds. `new` are the items that nobody has
        in what is learned from.
    """
    of_features = {
        name: Runs(
            options,
            interactions,
            [read_item_features(paths, interactions, dataset)],
            f"{prefix}{name}",
            dataset=dataset,
            training=training,
            measure=lambda run: metrics_of_users(run.user_vectors, run.item_vectors, interactions),
        )
        for name, paths in (("base", [base]), ("ours", [base, courier]))
    }
    arms: dict[str, Arm] = {}
    for method, tried in settings.items():
        arms[method] = Arm(of_features["base"], method, tried)
        if METHODS[method].reads_features != "never":
            arms[method + OURS] = Arm(of_features["ours"], method, tried)
    compared = compare_tuned(arms, options.seeds, quick=options.quick)
    for name, found in compared.items():
        users = _means_over_seeds(arms[name], found)
        found["new@100"], found["new_among_new@100"] = (
            float(users[key].mean()) for key in ("new_recall", "among_new_recall")
        )
        base_name = name.removesuffix(OURS)
        if name != base_name and base_name in compared:
            seeds = min(found["seeds"], compared[base_name]["seeds"])
            one, other = (_means_over_seeds(arms[key], compared[key], seeds) for key in (name, base_name))
            keys = {**{metric: metric for metric in COMPARED}, "new@100": "new_recall"}
            found["gain"] = {
                metric: list(user_bootstrap(one[key] - other[key], one["users" if metric in COMPARED else "new_users"]))
                for metric, key in keys.items()
            }
    test, is_new = _new(interactions)
    window = Embeddings.load(courier).metadata.encoder.window
    return {
        "notice": dataset.manifest.notice,
        "courier_learned_on": None if window is None else [window.first, window.last],
        "users": interactions.num_users,
        "items": interactions.num_items,
        **{part: len(getattr(interactions, part)) for part in ("train", "validation", "test")},
        "test_asked": len(test),
        "test_new": int(is_new[test.items].sum()),
        "methods": compared,
    }


def metrics_of_users(users: np.ndarray, items: np.ndarray, interactions: Interactions) -> dict[str, np.ndarray]:
    """Test metrics by user, and the recall of new items.

    Args:
        users, items: vectors of all users and items.
        interactions: whose test part is asked for.
    """
    of_all = rank_for_users(users, items, interactions.test, interactions.train)
    test, is_new = _new(interactions)
    new = test.take(is_new[test.items])
    of_new = rank_for_users(users, items, new, interactions.train, [_NEW_AT])
    # Among themselves, and one more item that all users have, since who has nothing is not measured.
    number = np.cumsum(is_new) - 1
    known = np.unique(interactions.train.users)
    among_new = rank_for_users(
        users,
        np.concatenate([items[is_new], items[:1]]),
        Pairs(new.users, number[new.items]),
        Pairs(known, np.full_like(known, is_new.sum())),
        [_NEW_AT],
    )
    return {
        "users": of_all.users,
        **{name: of_all.values[name] for name in COMPARED},
        "new_users": of_new.users,
        "new_recall": of_new.values[f"recall@{_NEW_AT}"],
        "among_new_recall": among_new.values[f"recall@{_NEW_AT}"],
    }


def _new(interactions: Interactions) -> tuple[Pairs, np.ndarray]:
    """The test pairs of users to learn from, and which items nobody has in what is learned from."""
    test = interactions.test.take(np.isin(interactions.test.users, interactions.train.users))
    return test, np.bincount(interactions.train.items, minlength=interactions.num_items) == 0


def _means_over_seeds(arm: Arm, found: dict[str, Any], seeds: int | None = None) -> dict[str, np.ndarray]:
    """Metrics of users, means over the seeds that there are."""
    runs = [arm.runs.arrays(arm.method, found["setting"], seed) for seed in range(seeds or found["seeds"])]
    there = [run for run in runs if run is not None]
    return {name: np.mean([run[name] for run in there], axis=0) for name in there[0]}
