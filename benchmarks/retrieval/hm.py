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

from benchmarks.base import WORK, benchmark_parser, run_benchmark, use_two_cores
from benchmarks.hm.runs import open_dataset
from benchmarks.retrieval.runs import add_run_options
from benchmarks.retrieval.with_courier import compare_with_courier, embeddings_of
from models.retrieval.interactions import Interactions

SPLIT_TIMES = "2019-07-03,2020-03-08"
"""The days on which 50 % and 90 % of the purchases are reached."""

VALIDATION_SHARE = 0.25  # of the second and third part
TRAINING = {"batch_size": 512, "epochs": 40, "patience": 5}
METHODS_IN_ORDER = ("bpr", "bm3", "dualgnn", "two_tower", "slmrec", "mgcn", "mmgcn", "lattice")
"""Those that learn fast first."""

LEARNING_RATES = (0.001, 0.003, 0.01)
PAGES = {"two_tower": {"batch_size": 64}}
"""A step of two towers reads pages, each with several purchases."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing, as long as there is time, and summarises."""
    use_two_cores()
    dataset = open_dataset(options.source, options.work_dir, SPLIT_TIMES)
    embeddings = embeddings_of(dataset, options.work_dir, options.courier)
    interactions = Interactions.from_pages(dataset, validation_share=VALIDATION_SHARE)
    settings = {
        method: [{**PAGES.get(method, {}), "learning_rate": rate} for rate in LEARNING_RATES]
        for method in METHODS_IN_ORDER
    }
    return compare_with_courier(options, dataset, interactions, *embeddings, settings, TRAINING)


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one learning rate, two epochs, one seed")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M files")
    parser.add_argument(
        "--courier", type=Path, metavar="EMBEDDINGS", help="COURIER's (unset: made in the work directory)"
    )
    add_run_options(parser, WORK / "retrieval_hm", seeds=5)
    run_benchmark("retrieval_hm", parser, measure)
