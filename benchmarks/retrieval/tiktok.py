"""The seven recommenders on TikTok's public split, each tuned over as many settings.

    python -m benchmarks.retrieval.tiktok [--source DIR] [--work-dir DIR] [--seeds N] [--minutes M] [--quick]

Pictures and sounds are two kinds of item features. Every method is trained with each of its settings on the first seed;
the one with the highest recall@20 on the validation interactions is trained on the other seeds. Test figures are means
over seeds with their standard deviation. Training ends ten epochs after the best one, or after 120.

Runs that are done are kept in the work directory, so that an interrupted benchmark goes on. `--minutes` begins no new
run after so long, and the result tells of what there is.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.base import WORK, benchmark_parser, run_benchmark, use_two_cores
from benchmarks.retrieval.runs import Arm, Runs, Settings, add_run_options, compare_tuned
from models.retrieval.interaction_file import read_interactions
from models.retrieval.item_features import read_item_features

SETTINGS: Settings = {
    "bpr": [{"regularization": value} for value in (0.1, 0.03, 0.3)],
    "mmgcn": [{"regularization": value} for value in (1e-4, 1e-3, 1e-2)],
    "dualgnn": [{"regularization": value} for value in (1e-3, 1e-2, 1e-1)],
    "lattice": [{"regularization": value} for value in (1e-4, 1e-5, 1e-3)],
    "slmrec": [{"temperature": value} for value in (0.2, 0.1, 0.5)],
    "bm3": [{"layers": 1, "dropout": 0.3}, {"layers": 1, "dropout": 0.5}, {"layers": 2, "dropout": 0.3}],
    "mgcn": [{"contrast_weight": value} for value in (0.01, 0.001, 0.1)],
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing, as long as there is time, and summarises."""
    use_two_cores()
    interactions = read_interactions(options.source / "tiktok.inter.csv.gz")
    features = [read_item_features([options.source / f"{kind}_feat.npy"], interactions) for kind in ("image", "audio")]
    runs = Runs(options, interactions, features, "tiktok")
    arms = {method: Arm(runs, method, settings) for method, settings in SETTINGS.items()}
    methods = compare_tuned(arms, options.seeds, quick=options.quick)
    return {"users": interactions.num_users, "items": interactions.num_items, "methods": methods}


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one setting, two epochs, one seed")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/tiktok_mm"), help="the public files")
    add_run_options(parser, WORK / "retrieval_tiktok", seeds=5)
    run_benchmark("retrieval_tiktok", parser, measure)
