"""Accuracy on KuaiRand's real impressions: a trained ranker against DIN of FuxiCTR on the same features.

    make bench-env
    .venv/bin/python -m beam_pipelines.datasets.kuairand --source DIR --output artifacts/kuairand_logs
    .venv/bin/python -m beam_pipelines.build --logs artifacts/kuairand_logs --output artifacts/kuairand \\
        --split-by-time 2022-04-25,2022-05-04
    .venv/bin/python -m models.train_ctr --data artifacts/kuairand --image-feature none \\
        --output artifacts/kuairand_ranker
    .venv/bin/python benchmarks/kuairand.py --data artifacts/kuairand --model artifacts/kuairand_ranker [--quick]

The peer reads what the ranker's tables hold: IDs with the same thresholds, vocabularies and scales, of items, users
and candidates; the query as an ID; the newest clicks as item and its ID columns. It reads no ages of clicks. Both stop
early on the same validation pages, the latest of the train pages, by the mean AUC over pages; the peer's learning rate
and dropout are those of the grid that are best there, and no choice sees the test pages. Test scores of both are
measured by the same code; intervals are over users.

The last line is one JSON object. `--quick` tries one point of the grid for two epochs.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from beam_pipelines.manifest import Window
from models.config import load_config
from models.ctr.config import TrainingConfig
from models.ctr.evaluation import METRICS, Candidates, metric_samples
from models.ctr.ranker import CONFIG_FILE, Ranker, load_ranker
from models.ctr.scoring import measure, score_pages
from models.ctr.training_counts import split_by_share
from models.data.dataset import Dataset
from models.data.pages import GROUPS, PADDING, page_batches, page_timestamps
from models.metrics.auc import group_auc
from models.metrics.bootstrap import bootstrap_counts, interval

ROOT = Path(__file__).resolve().parent.parent
PEER_PYTHON = ROOT / ".venv-fuxictr/bin/python"
LEARNING_RATES, DROPOUTS = (1e-3, 5e-4, 2e-4), (0.0, 0.1, 0.3)
STEPS = 100  # newest clicks that the peer reads
PARTS = ("fit", "validation", "test")
_BATCH = 512


def part_windows(dataset: Dataset, config: TrainingConfig) -> dict[str, tuple[str, Window | None]]:
    """Split and window of each part, as `models.train_ctr` cuts them."""
    timestamps = page_timestamps(dataset, "train")
    fit, validation, _ = split_by_share(timestamps, dataset.split("train").window, config.validation_share)
    return {"fit": ("train", fit), "validation": ("train", validation), "test": ("test", None)}


def make_rows(ranker: Ranker, dataset: Dataset, windows: dict[str, tuple[str, Window | None]]) -> dict[str, np.ndarray]:
    """Candidates as rows, with what the ranker's tables know of them.

    Returns:
        - by row `(n,)`: `part`, number in `PARTS`; `page`; `clicked`; `item`, row in `items`; `ids` `(n, i)` and
          `numbers` `(n, j)` with their `id_names`, `id_sizes` and `number_names`.
        - by page: `history`, rows in `items` of the newest clicks `(pages, STEPS)`, -1 is padding.
        - `items`: IDs by item row `(rows, k)`, with `item_names` and `item_sizes`.
    """
    lengths = ranker.config.lengths.model_copy(
        update={"candidates": dataset.manifest.max_candidates, "click": STEPS, "pay": 0, "cart": 0}
    )
    columns: dict[str, list[np.ndarray]] = {}
    pages = 0
    for number, (part, (split, window)) in enumerate(windows.items()):
        for page in tqdm(page_batches(dataset, split, lengths, batch_size=_BATCH, window=window), desc=part):
            page_row, place = np.nonzero(page["item"].numpy() != PADDING)
            found: dict[str, np.ndarray] = {
                "item": page["item"].numpy()[page_row, place],
                "user": page["user"].numpy()[page_row],
                "query": page["query"].numpy()[page_row],
                "clicked": page["clicked"].numpy()[page_row, place] == 1,
                "page": pages + page_row,
                "part": np.full(len(page_row), number),
                "history": page["click_item"].numpy(),
            }
            if ranker.numbers.features:
                found["numbers"] = ranker.numbers(page).numpy()[page_row, place]
            for name, values in found.items():
                columns.setdefault(name, []).append(values)
            pages += len(page["user"])
    rows = {name: np.concatenate(parts) for name, parts in columns.items()}

    known = np.unique(rows["query"][rows["part"] == 0])
    place = np.searchsorted(known, rows["query"]).clip(max=len(known) - 1)
    ids = {"query": (np.where(known[place] == rows["query"], place + 1, 0), len(known) + 1)}
    numbers = {name: rows["numbers"][:, i] for i, name in enumerate(ranker.numbers.features)}
    items = {}
    for table, of_row in ((ranker.items.features, rows["item"]), (ranker.users, rows["user"])):
        for name, feature in table.features.items():
            values = table.tables[name].numpy()
            if feature.type == "text":
                continue  # this source has none
            if name not in table.embeddings:
                numbers[name] = values[of_row]
            elif table is ranker.users:
                ids[name] = values[of_row], table.embeddings[name].known + 1
            else:
                items[name] = values, table.embeddings[name].known + 1
    return {
        **{name: rows[name].astype(np.int32) for name in ("item", "page", "part", "history")},
        "clicked": rows["clicked"].astype(np.float32),
        "ids": np.stack([values for values, _ in ids.values()], axis=1).astype(np.int32),
        "id_names": np.array(list(ids)),
        "id_sizes": np.array([size for _, size in ids.values()]),
        "numbers": np.stack(list(numbers.values()), axis=1).astype(np.float32),
        "number_names": np.array(list(numbers)),
        "items": np.stack([values for values, _ in items.values()], axis=1),
        "item_names": np.array(list(items)),
        "item_sizes": np.array([size for _, size in items.values()]),
    }


def peer_scores(rows: Path, learning_rate: float, dropout: float, *options: str) -> np.ndarray:
    """Trains the peer at one point of the grid; its scores of all rows."""
    scores = rows.with_name(f"scores_{learning_rate}_{dropout}.npz")
    command = [PEER_PYTHON, ROOT / "benchmarks/kuairand_fuxictr.py", "--rows", rows, "--scores", scores]
    command += ["--learning-rate", learning_rate, "--dropout", dropout, *options]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([str(word) for word in command], stdout=sys.stderr, env=environment, check=True)
    return np.load(scores)["scores"]


def main() -> None:
    """Compares and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("artifacts/kuairand"), help="from beam_pipelines.build")
    parser.add_argument("--model", type=Path, default=Path("artifacts/kuairand_ranker"), help="from models.train_ctr")
    parser.add_argument("--work-dir", type=Path, default=Path("artifacts/benchmarks/kuairand"), help="keeps scores")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=LEARNING_RATES, help="the peer's grid")
    parser.add_argument("--dropouts", type=float, nargs="+", default=DROPOUTS, help="the peer's grid")
    parser.add_argument("--quick", action="store_true", help="one point of the grid, two epochs")
    args = parser.parse_args()
    if not PEER_PYTHON.exists():
        sys.exit("the peer's environment is missing: make bench-env")
    args.work_dir.mkdir(parents=True, exist_ok=True)
    dataset, ranker = Dataset(args.data), load_ranker(args.model)
    print(f"notice: {dataset.manifest.notice}", flush=True)
    windows = part_windows(dataset, load_config(TrainingConfig, str(args.model / CONFIG_FILE)))
    rows, file = make_rows(ranker, dataset, windows), args.work_dir / "rows.npz"
    np.savez(file, **rows)
    clicked = rows["clicked"] == 1
    parts = {part: rows["part"] == number for number, part in enumerate(PARTS)}
    print(", ".join(f"{part}: {chosen.sum()} candidates" for part, chosen in parts.items()), flush=True)

    grid = list(itertools.product(args.learning_rates, args.dropouts))
    tried = []
    for learning_rate, dropout in tqdm(grid[:1] if args.quick else grid, desc="the peer's grid", unit="training"):
        scores = peer_scores(file, learning_rate, dropout, *(("--epochs", "2") if args.quick else ()))
        chosen = parts["validation"]
        gauc = group_auc(scores[chosen], clicked[chosen], rows["page"][chosen]).mean()
        tried.append((gauc, learning_rate, dropout, scores[parts["test"]]))
        print(f"FuxiCTR, learning rate {learning_rate}, dropout {dropout}: validation GAUC {gauc:.4f}", flush=True)
    gauc, learning_rate, dropout, theirs = max(tried, key=lambda one: one[0])

    lengths = ranker.config.lengths.model_copy(update={"candidates": dataset.manifest.max_candidates})
    pages = page_batches(dataset, "test", lengths, batch_size=_BATCH, to_longest=GROUPS)
    ours = score_pages(ranker, tqdm(pages, desc="scoring"))
    if not np.array_equal(ours.clicked, clicked[parts["test"]]):
        sys.exit("the rows and the scores of the ranker are not in the same order")
    scores = {"ours": ours, "fuxictr": ours._replace(ctr=theirs)}
    result: dict[str, Any] = {name: measure(side._replace(ctcvr=None, dwell=None)) for name, side in scores.items()}
    candidates = Candidates.of(ours.page, ours.user, ours.clicked, 1.0)
    counts = bootstrap_counts(int(candidates.user.max()) + 1)
    samples = metric_samples([side.ctr for side in scores.values()], candidates, counts)
    difference = samples[0] - samples[1]
    low, high = interval(difference[:, 1:])
    result["differences"] = {
        name: [float(difference[i, 0]), float(low[i]), float(high[i])] for i, name in enumerate(METRICS)
    }
    result["fuxictr_learning_rate"], result["fuxictr_dropout"] = learning_rate, dropout
    result["fuxictr_validation_gauc"], result["fuxictr_trainings"] = gauc, len(tried)
    result["notice"] = dataset.manifest.notice

    print(f"{'test':24s}{'ours':>10s}{'fuxictr':>10s}  difference [95 %]")
    for name, (value, lower, upper) in result["differences"].items():
        sides = "".join(f"{result[side][name]:10.4f}" for side in scores)
        print(f"{name:24s}{sides}  {value:+.4f} [{lower:+.4f}, {upper:+.4f}]")
    print(f"{result['ours']['candidates']} candidates; TensorFlow {tf.__version__}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
