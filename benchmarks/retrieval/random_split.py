"""Recommenders on H&M and MovieLens, each user's interactions divided at random, with and without COURIER's embedding.

    python -m benchmarks.retrieval.random_split [--hm DIR] [--movielens DIR] [--work-dir DIR] [--seeds N] [--minutes M]

In shares as those of MMRec's Amazon in the paper's Table 2: of a user's items a tenth, rounded up, is for tests and as
many for validation, of those who have three or more. COURIER learns on the first half of the data by time, on pages and
by the preset `courier_cpu`, with one seed; recommenders learn from the later half, so that COURIER has seen none of it:
of H&M the purchases, of MovieLens the films rated four or better (not an impression log: people rated what they chose
to rate).
`base` features are those of EfficientNet-Lite0 as published (the averages of all stages), whitened to 64 on pictures of
the first half; `ours` has COURIER's embedding of 256 beside them. Films without a poster have zeros.

Each method is trained with three learning rates on the first seed, separately for `base` and `ours`; the one with the
highest recall@20 on validation is trained on the other seeds. All else is the method's default, but for batches, epochs
and patience, which are the same for all. Differences of `ours` from `base` are paired by user, means over seeds, with a
95 % interval of a bootstrap over users.

Runs that are done are kept in the work directory, so that an interrupted benchmark goes on. `--minutes` begins no new
run after so long, `--methods` trains those alone, and the result tells of what there is. `--quick`: two epochs, one
seed, one learning rate.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module, use_two_cores
from benchmarks.hm.runs import open_dataset
from benchmarks.retrieval.hm import LEARNING_RATES, METHODS_IN_ORDER, SPLIT_TIMES, TRAINING
from benchmarks.retrieval.runs import add_run_options
from benchmarks.retrieval.with_courier import compare_with_courier, embeddings_of
from benchmarks.study.data import split_times
from models.data.dataset import Dataset
from models.retrieval.interactions import Interactions, Pairs

ASKED = 0.1  # for tests, and as much for validation
LEAST = 3
"""Of items that a user must have for one to be asked for."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing, as long as there is time, and summarises."""
    use_two_cores()
    movielens = open_movielens(options.movielens, options.work_dir)
    hm = open_dataset(options.hm, options.hm_dir, SPLIT_TIMES)
    embeddings = {
        "movielens": (movielens, *embeddings_of(movielens, options.work_dir)),
        "hm": (hm, *embeddings_of(hm, options.hm_dir, options.courier)),
    }
    rates = [{"learning_rate": rate} for rate in LEARNING_RATES]
    settings = {method: rates for method in METHODS_IN_ORDER if method != "two_tower"}  # which reads pages
    figures = {}
    for name, (dataset, base, courier) in embeddings.items():
        interactions = divide_by_user(Interactions.from_pages(dataset), seed=0)
        figures[name] = compare_with_courier(
            options, dataset, interactions, base, courier, settings, TRAINING, prefix=f"{name}-"
        )
    return figures


def open_movielens(source: Path, work_dir: Path) -> Dataset:
    """The dataset of the work directory, built from MovieLens' files if it is not there; the first half pre-trains.

    Args:
        source: MovieLens' files and the posters.
        work_dir: where the dataset is, or will be.
    """
    logs, path = work_dir / "logs", work_dir / "dataset"
    work_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if not logs.exists():
            words = ("--source", source, "--output", logs)
            run_module("beam_pipelines.datasets.movielens", *words, log=work_dir / "logs.log")
        words = ("--logs", logs, "--output", path, "--split-by-time", split_times(logs, (0.5, 0.9)))
        run_module("beam_pipelines.build", *words, log=work_dir / "dataset.log")
    return Dataset(path)


def divide_by_user(interactions: Interactions, seed: int) -> Interactions:
    """Divides each user's interactions anew, at random: `ASKED` of them, rounded up, to test, as many to validate.

    Args:
        interactions: of which all three parts are taken together.
        seed: of the order.
    """
    parts = (interactions.train, interactions.validation, interactions.test)
    users, items = (np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "items"))
    order = np.random.default_rng(seed).permutation(len(users))
    order = order[np.argsort(users[order], kind="stable")]
    users, items = users[order], items[order]
    counts = np.bincount(users, minlength=interactions.num_users)
    place = np.arange(len(users)) - (np.cumsum(counts) - counts)[users]
    asked = np.where(counts >= LEAST, np.ceil(counts * ASKED), 0)[users]
    label = np.select([place < asked, place < 2 * asked], [2, 1], 0)
    train, validation, test = (Pairs(users[label == part], items[label == part]) for part in range(3))
    return Interactions.of(interactions.user_ids, interactions.item_ids, train, validation, test)


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one learning rate, two epochs, one seed")
    parser.add_argument("--hm", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M files")
    parser.add_argument("--hm-dir", type=Path, default=WORK / "retrieval_hm", help="what is there is reused")
    parser.add_argument(
        "--courier", type=Path, metavar="EMBEDDINGS", help="COURIER's of H&M (unset: made in that directory)"
    )
    parser.add_argument(
        "--movielens", type=Path, default=Path("../shared/data/movielens_posters"), help="MovieLens with posters"
    )
    add_run_options(parser, WORK / "retrieval_random_split", seeds=5)
    run_benchmark("retrieval_random_split", parser, measure)
