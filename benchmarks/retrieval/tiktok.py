"""The seven recommenders on TikTok's public split, each tuned over as many settings.

    python -m benchmarks.retrieval.tiktok [--source DIR] [--work-dir DIR] [--seeds N] [--minutes M] [--quick]

Pictures and sounds are two kinds of item features. Every method is trained with each of its settings on the first seed;
the one with the highest recall@20 on the validation interactions is trained on the other seeds. Test figures are means
over seeds with their standard deviation. Training ends ten epochs after the best one, or after 120.

Runs that are done are kept in the work directory, so that an interrupted benchmark goes on. `--minutes` begins no new
run after so long, and the result tells of what there is.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import keras

from beam_pipelines.format.text_file import read_json, write_json
from beam_pipelines.shell.progress import progress_bar
from benchmarks.base import WORK, benchmark_parser, peak_memory_mb, run_benchmark, use_two_cores
from models.retrieval.interaction_file import read_interactions
from models.retrieval.interactions import Interactions
from models.retrieval.item_features import ItemFeatures, read_item_features
from models.retrieval.methods import METHODS
from models.retrieval.train import train_retrieval

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "bpr": [{"regularization": value} for value in (0.03, 0.1, 0.3)],
    "mmgcn": [{"regularization": value} for value in (1e-4, 1e-3, 1e-2)],
    "dualgnn": [{"regularization": value} for value in (1e-3, 1e-2, 1e-1)],
    "lattice": [{"regularization": value} for value in (1e-5, 1e-4, 1e-3)],
    "slmrec": [{"temperature": value} for value in (0.1, 0.2, 0.5)],
    "bm3": [{"layers": 1, "dropout": 0.3}, {"layers": 1, "dropout": 0.5}, {"layers": 2, "dropout": 0.3}],
    "mgcn": [{"contrast_weight": value} for value in (0.001, 0.01, 0.1)],
}
METRICS = ("recall@20", "recall@50", "ndcg@50")
_EPOCHS, _PATIENCE = 120, 10


def train(
    method: str,
    setting: dict[str, Any],
    seed: int,
    interactions: Interactions,
    features: list[ItemFeatures],
    directory: Path,
    epochs: int,
) -> dict[str, Any]:
    """Trains one recommender; returns its metrics, epochs and seconds."""
    kind = METHODS[method]
    config = kind.Config(**setting, epochs=epochs, patience=_PATIENCE)
    start = time.perf_counter()
    run = train_retrieval(
        interactions,
        directory,
        method=method,
        features=[] if kind.reads_features == "never" else features,
        config=config,
        seed=seed,
    )
    seconds = time.perf_counter() - start
    found = {part: {name: getattr(run.metadata, part)[name] for name in METRICS} for part in ("validation", "test")}
    found |= {
        "epoch": run.metadata.validation["epoch"],
        "epochs": len(run.history()["loss"]),
        "seconds": seconds,
        "peak_mb": peak_memory_mb(),
    }
    shutil.rmtree(directory)
    keras.backend.clear_session()
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing, as long as there is time, and summarises."""
    use_two_cores()
    source = options.source
    interactions = read_interactions(source / "tiktok.inter.csv.gz")
    features = [read_item_features([source / f"{kind}_feat.npy"], interactions) for kind in ("image", "audio")]
    work = options.work_dir / ("quick" if options.quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    epochs = 2 if options.quick else _EPOCHS
    begun = time.monotonic()

    def cell(method: str, number: int, seed: int) -> dict[str, Any] | None:
        path = work / f"{method}-{number}-{seed}.json"
        if not path.exists():
            if time.monotonic() - begun > 60 * options.minutes:
                return None
            run = work / f"{path.stem}.run"
            write_json(path, train(method, SETTINGS[method][number], seed, interactions, features, run, epochs))
        return read_json(path)

    tuned: dict[str, dict[int, dict]] = {method: {} for method in METHODS}
    numbers = range(1 if options.quick else len(SETTINGS["bpr"]))
    for number in numbers:
        for method in progress_bar(METHODS, desc=f"setting {number + 1}"):
            found = cell(method, number, 0)
            if found is not None:
                tuned[method][number] = found
    figures: dict[str, Any] = {"users": interactions.num_users, "items": interactions.num_items, "methods": {}}
    best = {
        method: max(runs, key=lambda number: runs[number]["validation"]["recall@20"])
        for method, runs in tuned.items()
        if runs
    }
    seeds: dict[str, list[dict]] = {method: [tuned[method][number]] for method, number in best.items()}
    for seed in range(1, 1 if options.quick else options.seeds):
        for method in progress_bar(best, desc=f"seed {seed}"):
            found = cell(method, best[method], seed)
            if found is not None:
                seeds[method].append(found)
    for method, number in best.items():
        figures["methods"][method] = summary(seeds[method], SETTINGS[method][number]) | {
            "tuning": [
                {"setting": SETTINGS[method][each], "validation_recall@20": run["validation"]["recall@20"]}
                for each, run in sorted(tuned[method].items())
            ]
        }
    return figures


def summary(runs: list[dict[str, Any]], setting: dict[str, Any]) -> dict[str, Any]:
    """Means over seeds, and deviations where there are several."""
    means: dict[str, Any] = {"setting": setting, "seeds": len(runs)}
    for name in METRICS:
        values = [run["test"][name] for run in runs]
        means[name] = statistics.mean(values)
        means[f"{name}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    for name in ("epochs", "seconds"):
        means[name] = statistics.mean(run[name] for run in runs)
    return means


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one setting, two epochs, one seed")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/tiktok_mm"), help="the public files")
    parser.add_argument("--work-dir", type=Path, default=WORK / "retrieval_tiktok", help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10_000, help="after which no run begins")
    run_benchmark("retrieval_tiktok", parser, measure)
