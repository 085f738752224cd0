"""Recommenders on H&M with features as published, and with COURIER's embedding beside them ("+ ours").

    python -m benchmarks.retrieval.hm [--source DIR] [--work-dir DIR] [--courier EMBEDDINGS] [--seeds N] [--minutes M]

The paper's shares of the purchases, here in the order of time: 50 % for COURIER, 30 % to learn from, 10 % to validate,
10 % to test. `base` features are those of EfficientNet-Lite0 as published (the averages of all stages), whitened to 64
on items of the first part; `ours` has COURIER's embedding of 256 beside them, from random weights, one seed. COURIER
learns on the first part alone, by the preset `courier_cpu`; `--courier` takes embeddings that were made before, whose
encoder must not have seen later pages either. Recommenders learn from the second part; the histories that two towers
read have the first part, too. A pair that a user has in an earlier part of the latter three is no question.

Each method is trained with three learning rates on the first seed, separately for `base` and `ours`; the one with the
highest recall@20 on validation is trained on the other seeds. All else is the method's default, but for batches, epochs
and patience, which are the same for all. Differences of `ours` from `base` are paired by user, means over seeds, with a
95 % interval of a bootstrap over users. `new` are the items that nobody has in what is learned from: their recall@100
among all items, and in an order of new items alone.

Runs that are done are kept in the work directory, so that an interrupted benchmark goes on. `--minutes` begins no new
run after so long, `--methods` trains those alone, and the result tells of what there is. `--quick`: two epochs, one
seed, one learning rate.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.base import WORK, benchmark_parser, run_benchmark, use_two_cores
from benchmarks.hm.runs import open_dataset, train_runs
from benchmarks.hm.similarity_pages import user_bootstrap
from benchmarks.pictures.hm import whiten
from benchmarks.pictures.published import embed
from benchmarks.retrieval.runs import Arm, Runs, add_run_options, compare_tuned
from models.embeddings.embeddings import Embeddings
from models.retrieval.full_ranking import rank_for_users
from models.retrieval.interactions import Interactions, Pairs
from models.retrieval.item_features import read_item_features
from models.retrieval.methods import METHODS

SPLIT_TIMES = "2019-07-03,2020-03-08"
"""The days on which 50 % and 90 % of the purchases are reached."""

VALIDATION_SHARE = 0.25  # of the second and third part
TRAINING = {"batch_size": 512, "epochs": 40, "patience": 5}
METHODS_IN_ORDER = ("bpr", "bm3", "dualgnn", "two_tower", "slmrec", "mgcn", "mmgcn", "lattice")
"""Those that learn fast first."""

LEARNING_RATES = (0.001, 0.003, 0.01)
PAGES = {"two_tower": {"batch_size": 64}}
"""A step of two towers reads pages, each with several purchases."""

COMPARED = ("recall@20", "recall@50", "ndcg@50")
OURS = " + ours"
_NEW_AT = 100


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing, as long as there is time, and summarises."""
    use_two_cores()
    dataset = open_dataset(options.source, options.work_dir, SPLIT_TIMES)
    base = whiten(dataset, embed(dataset, options.work_dir)) / "embeddings"
    if options.courier is None:
        _, _, run = next(train_runs(dataset, options.work_dir, "courier_cpu", {"courier": []}, seeds=1, jobs=1))
        options.courier = run.path / "embeddings"
    interactions = Interactions.from_pages(dataset, validation_share=VALIDATION_SHARE)
    of_features = {
        name: Runs(
            options,
            interactions,
            [read_item_features(paths, interactions, dataset)],
            name,
            dataset=dataset,
            training=TRAINING,
            measure=lambda run: metrics_of_users(run.user_vectors, run.item_vectors, interactions),
        )
        for name, paths in (("base", [base]), ("ours", [base, options.courier]))
    }
    arms: dict[str, Arm] = {}
    for method in METHODS_IN_ORDER:
        settings = [{**PAGES.get(method, {}), "learning_rate": rate} for rate in LEARNING_RATES]
        arms[method] = Arm(of_features["base"], method, settings)
        if METHODS[method].reads_features != "never":
            arms[method + OURS] = Arm(of_features["ours"], method, settings)
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
    window = Embeddings.load(options.courier).metadata.encoder.window
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


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one learning rate, two epochs, one seed")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M files")
    parser.add_argument(
        "--courier", type=Path, metavar="EMBEDDINGS", help="COURIER's (unset: made in the work directory)"
    )
    add_run_options(parser, WORK / "retrieval_hm", seeds=3)
    run_benchmark("retrieval_hm", parser, measure)
