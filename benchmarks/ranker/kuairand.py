"""Accuracy on KuaiRand's real impressions: the ranker against DIN of FuxiCTR on the same features.

    make bench-env
    .venv/bin/python -m benchmarks.ranker.kuairand [--source DIR] [--work-dir DIR] [--learning-rates LR ...]
        [--dropouts SHARE ...] [--weight-decays DECAY ...] [--members N] [--seeds N] [--quick]

The last two days are the test, the days before for training and, their latest tenth, for validation. The peer reads
what a ranker's tables hold: IDs with the same thresholds, vocabularies and scales, of items, users and candidates; the
query as an ID; the newest 50 clicks as item and its ID columns, as ours. It reads no ages of clicks. Each side reads
the numbers of items (length, height and width of videos) as is better for it on the validation pages: the peer as they
are (left out, or in quantiles, they cost it up to .0004), ours not at all.

Both are tuned alike: learning rate, dropout of the MLP and weight decay (the peer's is of embeddings alone) are those
of the same grid that are best on the same validation pages by the AUC, the mean of all seeds (two seeds of one point
differ by more than two points do). The grid has two points unless options say otherwise: the learning rates that are
best for one side or the other. By this AUC every training also stops early and chooses its epoch; no choice sees the
test pages. Otherwise both train in their own ways: ours lets embeddings begin anew in every epoch, the peer lowers its
learning rate when validation stops improving. (GAUC over pages says little here: most pages show one video.) Test
scores of both are measured by the same code; intervals are over users, with the metrics of seeds averaged; differences
are paired.

At the point that is best for one network, rankers of `--members` networks are trained, too, whose log-odds they
average, and one is joined of as many trainings by `models.join_rankers`; a peer is one network. What averaging does is
shown on both sides: the seeds of each averaged as one.

What the work directory holds is not made again, and a training that was interrupted goes on: the command may be stopped
and started at any time. `--quick` tries one point of the grid with one seed for two epochs.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from beam_pipelines.datasets.kuairand_logs import Clicked
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Window
from benchmarks.base import ROOT, WORK, benchmark_parser, peer_command, run_benchmark, run_module, set_options
from benchmarks.tables.ranker import kuairand
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import GROUPS, PADDING, Pages, page_batches, page_timestamps, split_by_share
from models.evaluation.comparison import METRICS, Candidates, mean_over_runs, metric_samples, summaries
from models.evaluation.scored_pages import ScoredPages, score_pages
from models.features.spec import FeaturesConfig, TableFeature, is_plain, resolve_features
from models.metrics.auc import auc
from models.metrics.bootstrap import bootstrap_counts
from models.ranker.calibrator import to_logits
from models.ranker.config import TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.run import CONFIG_FILE, HISTORY_FILE, RankerRun

SPLIT_TIMES = "2022-04-25,2022-05-04"
STEPS = 50  # newest clicks that both read
LEARNING_RATES, DROPOUTS, WEIGHT_DECAYS = (2e-3, 4e-3), (0.0,), (0.0,)
"""The grid, unless options say otherwise."""
PRESET = "din_ctr"
"""How our rankers are made."""
CONFIG = (
    f"ranker.lengths={{click: {STEPS}, pay: 0, cart: 0}}",
    f"ranker.attention.recent_steps={STEPS}",
)
"""And told: the steps that the peer reads."""
PARTS = ("fit", "validation", "test")
_BATCH = 512


def part_windows(dataset: Dataset, config: TrainingConfig) -> dict[str, tuple[str, Window | None]]:
    """Split and window of each part, as `models.train_ctr` cuts them."""
    timestamps = page_timestamps(dataset, "train")
    fit, validation, _ = split_by_share(timestamps, dataset.split("train").window, config.validation_share)
    return {"fit": ("train", fit), "validation": ("train", validation), "test": ("test", None)}


def features_of_ours(dataset: Dataset, item_numbers: bool) -> str:
    """What our rankers read, as an override: all that there is; training takes no ID for unknown.

    Args:
        dataset: tells what there is.
        item_numbers: whether numbers of items are read, in quantiles; not at all otherwise.
    """
    spec = resolve_features(FeaturesConfig(), dataset.item_schema(), dataset.user_schema()).spec()
    item = {name: _as_read(feature) for name, feature in spec.item.items()}
    user = {name: _as_read(feature) for name, feature in spec.user.items()}
    for name, feature in spec.item.items():
        if feature.type == "text" or (feature.type == "number" and not item_numbers):
            del item[name]  # this source has no texts
        elif feature.type == "number":
            item[name]["transform"] = "buckets"
    return f"ranker.features={json.dumps({'item': item, 'user': user})}"


def _as_read(feature: TableFeature) -> dict[str, Any]:
    return feature.model_dump() | ({"dropout": 0.0} if feature.type == "id" else {})


def make_rows(dataset: Dataset, windows: dict[str, tuple[str, Window | None]]) -> dict[str, np.ndarray]:
    """Candidates as rows, with what the tables of a ranker that reads everything know of them.

    Returns:
        - by row `(n,)`: `part`, number in `PARTS`; `page`; `clicked`; `converted`; `item`, row in `items`; `ids`
          `(n, i)` and `numbers` `(n, j)` with their `id_names`, `id_sizes` and `number_names`.
        - by page: `history`, rows in `items` of the newest clicks `(pages, STEPS)`, -1 is padding.
        - `items`: IDs by item row `(rows, k)`, with `item_names` and `item_sizes`.
    """
    ranker = Ranker.adapt(Pages(dataset, *windows["fit"]))
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
                "converted": page["converted"].numpy()[page_row, place] == 1,
                "page": pages + page_row,
                "part": np.full(len(page_row), number),
                "history": page["click_item"].numpy(),
            }
            if ranker.dense.features:
                found["numbers"] = ranker.dense(page).numpy()[page_row, place]
            for name, values in found.items():
                columns.setdefault(name, []).append(values)
            pages += len(page["user"])
    rows = {name: np.concatenate(parts) for name, parts in columns.items()}

    known = np.unique(rows["query"][rows["part"] == 0])
    place = np.searchsorted(known, rows["query"]).clip(max=len(known) - 1)
    ids = {"query": (np.where(known[place] == rows["query"], place + 1, 0), len(known) + 1)}
    numbers = {name: rows["numbers"][:, i] for i, name in enumerate(ranker.dense.features)}
    items = {}
    for table, sizes, of_row in (
        (ranker.items.features, ranker.sizes.item, rows["item"]),
        (ranker.users, ranker.sizes.user, rows["user"]),
    ):
        for name, feature in table.features.items():
            values = table.tables[name].numpy()
            if feature.type == "text":
                continue  # this source has none
            if is_plain(feature):
                numbers[name] = values[of_row]
            elif table is ranker.users:
                ids[name] = values[of_row], sizes[name] + 1
            else:
                items[name] = values, sizes[name] + 1
    return {
        **{name: rows[name].astype(np.int32) for name in ("item", "page", "part", "history")},
        **{name: rows[name].astype(np.float32) for name in ("clicked", "converted")},
        "ids": np.stack([values for values, _ in ids.values()], axis=1).astype(np.int32),
        "id_names": np.array(list(ids)),
        "id_sizes": np.array([size for _, size in ids.values()]),
        "numbers": np.stack(list(numbers.values()), axis=1).astype(np.float32),
        "number_names": np.array(list(numbers)),
        "items": np.stack([values for values, _ in items.values()], axis=1),
        "item_names": np.array(list(items)),
        "item_sizes": np.array([size for _, size in items.values()]),
    }


def open_dataset(
    source: Path, work_dir: Path, split_times: str = SPLIT_TIMES, clicked: Clicked = "is_click"
) -> Dataset:
    """The dataset of the work directory, built from KuaiRand's files if it is not there."""
    logs, path = work_dir / "logs", work_dir / "dataset"
    if not path.exists():
        arguments = ("--source", source, "--output", logs, "--clicked", clicked)
        run_module("beam_pipelines.datasets.kuairand", *arguments, log=work_dir / "logs.log")
        split = ("--split-by-time", split_times)
        run_module("beam_pipelines.build", "--logs", logs, "--output", path, *split, log=work_dir / "dataset.log")
    return Dataset(path)


class Point(NamedTuple):
    """One of the grid."""

    learning_rate: float
    dropout: float
    weight_decay: float

    def name(self, system: str, seed: int) -> str:
        """Of what a training with it makes."""
        return "_".join(str(part) for part in (system, *self, seed))


class Ours:
    """Rankers of the project.

    Args:
        dataset: to learn on.
        work_dir: keeps the runs.
        system: what they are called.
        options: what they have besides `CONFIG`.
    """

    def __init__(self, dataset: Dataset, work_dir: Path, system: str, options: Sequence[str]) -> None:
        self.dataset = dataset
        self.system = system
        self._work_dir = work_dir
        self._options = (*CONFIG, *options)

    def run(self, point: Point, seed: int) -> Path:
        """The run directory of a ranker, trained if it is not there."""
        path = self._work_dir / point.name(self.system, seed)
        overrides = [*self._options, f"learning_rate={point.learning_rate}", f"ranker.mlp_dropout={point.dropout}"]
        overrides += [f"weight_decay={point.weight_decay}"]
        if not path.exists():
            arguments = ("--data", self.dataset.path, "--output", path, "--config", PRESET, "--image-feature", "none")
            log = path.with_name(f"{path.name}.log")
            run_module("models.train_ctr", *arguments, "--seed", str(seed), *set_options(overrides), log=log)
        return path

    def joined(self, point: Point, seeds: Sequence[int]) -> Path:
        """The run directory of a ranker of the networks of several, made if it is not there."""
        path = self._work_dir / point.name(f"{self.system}_joined", len(seeds))
        if not path.exists():
            runs = [self.run(point, seed) for seed in tqdm(seeds, desc="to join", unit="training")]
            log = path.with_name(f"{path.name}.log")
            run_module("models.join_rankers", "--data", self.dataset.path, "--runs", *runs, "--output", path, log=log)
        return path

    def scores(self, run: Path, split: str, window: Window | None) -> ScoredPages:
        """Scores of the pages of a split."""
        ranker = RankerRun(run).ranker()
        lengths = ranker.config.lengths.model_copy(update={"candidates": self.dataset.manifest.max_candidates})
        pages = page_batches(self.dataset, split, lengths, batch_size=_BATCH, window=window, to_longest=GROUPS)
        return score_pages(ranker, tqdm(pages, desc="scoring", leave=False))


def peer_scores(rows: Path, point: Point, seed: int, *options: str) -> np.ndarray:
    """Scores of all rows by the peer, trained if they are not there."""
    scores = rows.with_name(f"{point.name('fuxictr', seed)}.npz")
    if not scores.exists():
        command = peer_command(
            "fuxictr",
            "benchmarks.ranker.peers.kuairand_fuxictr",
            *("--rows", rows.resolve(), "--scores", scores.resolve()),
            *("--learning-rate", point.learning_rate, "--dropout", point.dropout),
            *("--embedding-l2", point.weight_decay, "--seed", seed, *options),
        )
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, env=environment, check=True)
    return np.load(scores)["scores"]


def study(args: argparse.Namespace) -> dict[str, Any]:
    """Tunes, trains and measures both, prints the table and returns the result."""
    args.work_dir.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(args.source, args.work_dir)
    print(f"notice: {dataset.manifest.notice}", flush=True)
    axes = (args.learning_rates, args.dropouts, args.weight_decays)
    grid = list(itertools.starmap(Point, itertools.product(*axes)))[: 1 if args.quick else None]
    seeds = range(1 if args.quick else args.seeds)
    runs_dir = args.work_dir / ("quick" if args.quick else "runs")  # trainings of other lengths do not mix
    runs_dir.mkdir(exist_ok=True)
    options = (features_of_ours(dataset, item_numbers=False), f"epochs={2 if args.quick else 4}")
    ours, several = (
        Ours(dataset, runs_dir, f"ours_{members}", [f"ranker.members={members}", *options])
        for members in (1, args.members)
    )
    peer_options = ("--epochs", "2") if args.quick else ()

    tried: dict[str, dict[Point, list[float]]] = {side: {point: [] for point in grid} for side in ("ours", "fuxictr")}
    trainings = list(itertools.product(grid, seeds))
    for point, seed in tqdm(trainings, desc="ours", unit="training"):
        run = ours.run(point, seed)
        history = json.loads((run / HISTORY_FILE).read_text())
        tried["ours"][point].append(max(history["val_auc"]))
    windows = part_windows(dataset, load_config(TrainingConfig, str(run / CONFIG_FILE)))
    rows, file = make_rows(dataset, windows), runs_dir / "rows.npz"
    np.savez(file, **rows)
    clicked = rows["clicked"] == 1
    parts = {part: rows["part"] == number for number, part in enumerate(PARTS)}
    print(", ".join(f"{part}: {chosen.sum()} candidates" for part, chosen in parts.items()), flush=True)
    for point, seed in tqdm(trainings, desc="fuxictr", unit="training"):
        scores = peer_scores(file, point, seed, *peer_options)
        tried["fuxictr"][point].append(auc(scores[parts["validation"]], clicked[parts["validation"]]))
    mean = {name: {point: statistics.fmean(aucs) for point, aucs in points.items()} for name, points in tried.items()}
    for name, points in tried.items():
        for point, aucs in points.items():
            of_seeds = ", ".join(f"{value:.4f}" for value in aucs)
            print(f"{name}, {point}: validation AUC {mean[name][point]:.4f} ({of_seeds})", flush=True)

    best = {name: max(points, key=points.__getitem__) for name, points in mean.items()}
    scored, of_several = (
        [system.scores(system.run(best["ours"], seed), *windows["test"]) for seed in tqdm(seeds, desc=system.system)]
        for system in (ours, several)
    )
    joined = ours.scores(ours.joined(best["ours"], range(args.members)), *windows["test"])
    first = scored[0]
    if not np.array_equal(first.clicked, clicked[parts["test"]]):
        raise InputError("the rows and the scores of the ranker are not in the same order")
    theirs = [peer_scores(file, best["fuxictr"], seed, *peer_options)[parts["test"]] for seed in seeds]
    mine = [each.ctr for each in scored]
    single = {
        "fuxictr": theirs,
        "ours": mine,
        "ours_members": [each.ctr for each in of_several],
        "ours_joined": [joined.ctr],
    }
    averaged = {"fuxictr_averaged": [average(theirs)], "ours_averaged": [average(mine)]}
    figures = {
        "notice": dataset.manifest.notice,
        "seeds": len(seeds),
        "grid": dict(zip(("learning_rates", "dropouts", "weight_decays"), axes, strict=True)),
        "candidates": len(first.clicked),
        "tuned": {name: point._asdict() for name, point in best.items()},
        "validation_auc": {name: max(points.values()) for name, points in mean.items()},
        "members": args.members,
        "systems": compare(first, {**single, **averaged}),
        "averaged_less_averaged": compare(first, averaged)["ours_averaged"]["differences"],
    }
    print(kuairand(figures))
    return figures


def average(predictions: Sequence[np.ndarray]) -> np.ndarray:
    """The probabilities of the mean log-odds."""
    return expit(np.mean([to_logits(each) for each in predictions], axis=0))


def compare(pages: ScoredPages, predictions: dict[str, list[np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Metrics of systems, the means of their runs, and paired differences from the first one.

    Args:
        pages: what was scored.
        predictions: name of each system to what its runs predict.
    """
    candidates = Candidates.of(pages.page, pages.user, pages.clicked, 1.0)
    counts = bootstrap_counts(int(candidates.user.max()) + 1)
    samples = metric_samples([each for runs in predictions.values() for each in runs], candidates, counts)
    numbers = iter(range(len(samples)))
    runs = {name: list(itertools.islice(numbers, len(each))) for name, each in predictions.items()}
    found = dict(zip(runs, summaries(mean_over_runs(samples, runs)), strict=True))
    place = METRICS.index("auc")
    return {name: found[name] | {"auc_of_seeds": samples[rows, place, 0].tolist()} for name, rows in runs.items()}


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one point of the grid, one seed but for what is joined, two epochs")
    add = parser.add_argument
    add("--members", type=int, default=4, help="networks of the rankers of ours that have several")
    add("--source", type=Path, default=Path("../shared/data/kuairand_impressions"), help="KuaiRand's files")
    add("--work-dir", type=Path, default=WORK / "kuairand", help="what is there is reused")
    add("--learning-rates", type=float, nargs="+", default=LEARNING_RATES, metavar="LR", help="of the grid")
    add("--dropouts", type=float, nargs="+", default=DROPOUTS, metavar="SHARE", help="of the grid")
    add("--weight-decays", type=float, nargs="+", default=WEIGHT_DECAYS, metavar="DECAY", help="of the grid")
    add("--seeds", type=int, default=3)
    run_benchmark("kuairand", parser, study)


if __name__ == "__main__":
    main()
