"""BPR on the public splits of Amazon Baby and Sports beside what MMRec publishes.

    python -m benchmarks.retrieval.amazon [--source DIR] [--work-dir DIR] [--seeds N] [--minutes M] [--quick]

MMRec (enoche/MMRec, evaluation/README.md) reports test recall@20 and NDCG@20 of BPR on these sets: the same numbers of
users, items and interactions. Its preprocessing/1splitting.ipynb puts each user's interactions in a random order and
gives one to validation and one to test if there are fewer than ten; else the whole part of a fifth of them to both, of
which test has the larger half. How many users are split like that, with validation and test exchanged, is measured. The
same interactions in the same parts it need not be: the order is random, MMRec's files are elsewhere, and the IDs here
are others. The penalty is tuned on the validation interactions.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.base import WORK, benchmark_parser, run_benchmark, use_two_cores
from benchmarks.retrieval.runs import Arm, Runs, add_run_options, compare_tuned
from models.retrieval.interaction_file import read_interactions
from models.retrieval.interactions import Interactions

SETTINGS = [{"regularization": value} for value in (0.1, 0.03, 0.01)]
PUBLISHED = {
    "baby": {"bpr": {"recall@20": 0.0575, "ndcg@20": 0.0249}},
    "sports": {"bpr": {"recall@20": 0.0653, "ndcg@20": 0.0298}},
}


def users_by_published_rule(interactions: Interactions) -> float:
    """The share of users whose numbers of interactions are those of MMRec's rule, validation and test exchanged."""
    train, validation, test = (
        np.bincount(pairs.users, minlength=interactions.num_users)
        for pairs in (interactions.train, interactions.validation, interactions.test)
    )
    both = np.maximum(2, np.floor(0.2 * (train + validation + test)).astype(int))
    return float(np.mean((test == both // 2) & (validation == both - both // 2)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing, as long as there is time, and summarises."""
    use_two_cores()
    figures: dict[str, Any] = {}
    for name, published in PUBLISHED.items():
        interactions = read_interactions(options.source / name / f"{name}.inter.csv.gz")
        arm = Arm(Runs(options, interactions, [], name), "bpr", SETTINGS)
        methods = compare_tuned({"bpr": arm}, options.seeds, quick=options.quick)
        if not methods:
            continue  # no time was left
        figures[name] = {
            "users": interactions.num_users,
            "items": interactions.num_items,
            "train": len(interactions.train),
            "validation": len(interactions.validation),
            "test": len(interactions.test),
            "users_by_published_rule": users_by_published_rule(interactions),
            "methods": methods,
            "published": published,
        }
    return figures


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one setting, two epochs, one seed")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/amazon_mm"), help="the public files")
    add_run_options(parser, WORK / "retrieval_amazon", seeds=3)
    run_benchmark("retrieval_amazon", parser, measure)
