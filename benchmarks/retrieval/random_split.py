"""Recommenders on H&M and MovieLens, each user's interactions divided at random, with and without COURIER's embedding.

    python -m benchmarks.retrieval.random_split [--hm DIR] [--movielens DIR] [--work-dir DIR] [--seeds N] [--minutes M]

As MMRec divides Amazon for the paper's Table 2: of a user's items a tenth is for tests and a tenth for validation, of
those who have three or more. COURIER learns on the first half of the data by time, on pages and by the preset
`courier_cpu`, with one seed; recommenders learn from the later half, so that COURIER has seen none of it: of H&M the
purchases, of MovieLens the films rated four or better (not an impression log: people rated what they chose to rate).
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
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module, use_two_cores
from benchmarks.hm.runs import train_runs
from benchmarks.pictures.hm import whiten
from benchmarks.pictures.published import embed
from benchmarks.retrieval.hm import LEARNING_RATES, METHODS_IN_ORDER, TRAINING, open_inputs
from benchmarks.retrieval.runs import add_run_options
from benchmarks.retrieval.with_courier import compare_with_courier
from models.data.dataset import Dataset
from models.retrieval.interactions import Interactions, Pairs

PARTS = (0.8, 0.1, 0.1)
LEAST = 3
"""Of items that a user must have for one to be asked for."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing, as long as there is time, and summarises."""
    use_two_cores()
    inputs = {
        "movielens": open_movielens(options.movielens, options.work_dir),
        "hm": open_inputs(options.hm, options.hm_dir, options.courier),
    }
    rates = [{"learning_rate": rate} for rate in LEARNING_RATES]
    settings = {method: rates for method in METHODS_IN_ORDER if method != "two_tower"}  # which reads pages
    figures = {}
    for name, (dataset, base, courier) in inputs.items():
        interactions = divide_by_user(Interactions.from_pages(dataset), seed=0)
        figures[name] = compare_with_courier(
            options, dataset, interactions, base, courier, settings, TRAINING, prefix=f"{name}-"
        )
    return figures


def open_movielens(source: Path, work_dir: Path) -> tuple[Dataset, Path, Path]:
    """The dataset, embeddings as published, and COURIER's; what the work directory lacks is made.

    Args:
        source: MovieLens' files and the posters.
        work_dir: keeps all three.
    """
    logs, path = work_dir / "logs", work_dir / "dataset"
    work_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if not logs.exists():
            words = ("--source", source, "--output", logs)
            run_module("beam_pipelines.datasets.movielens", *words, log=work_dir / "logs.log")
        moments = pq.read_table(logs / "impressions.parquet", columns=["timestamp"])["timestamp"].cast(pa.int64())
        split = ",".join(str(int(moment)) for moment in np.quantile(moments.to_numpy(), (0.5, 0.9)))
        words = ("--logs", logs, "--output", path, "--split-by-time", split)
        run_module("beam_pipelines.build", *words, log=work_dir / "dataset.log")
    dataset = Dataset(path)
    _, _, run = next(train_runs(dataset, work_dir, "courier_cpu", {"courier": []}, seeds=1, jobs=1))
    return dataset, whiten(dataset, embed(dataset, work_dir)) / "embeddings", run.path / "embeddings"


def divide_by_user(interactions: Interactions, seed: int) -> Interactions:
    """Divides each user's interactions anew, at random, into `PARTS`.

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
    asked = np.where(counts >= LEAST, np.ceil(counts * PARTS[2]), 0)[users]
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
