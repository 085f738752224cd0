"""Three tasks on KuaiRand's real impressions, in two windows, and the public protocol of long views beside an FM.

    make bench-env
    .venv/bin/python -m benchmarks.ranker.kuairand_tasks [--source DIR] [--work-dir DIR] [--seeds N] [--quick]

The tables of the article that this answers have three tasks (a click, one more step, and the page of the item), two
windows and three runs each. KuaiRand has clicks, long views, which are clicks that the publisher calls long by the
video's length (`ctcvr`), and seconds of play, of which a click of 30 or more is a long visit (`long_visit`). Windows
end their training on the morning of May 2nd and of May 4th, and are tested on the two days from then on. One network
per ranker, with the settings of `kuairand` and numbers of items in quantiles; two epochs for the three tasks.

Its videos were all uploaded from April 9th to 11th, so that there is none of the last seven days on any test page. What
new content lacks are statistics: in its place stand candidates that were shown fewer than 16 times in the seven days
before.

The protocol that others have published figures for (TechJam 2026) ranks the impressions of each user by the chance of a
long view: GAUC over users, weighted by their long views, and nDCG@5, which counts users without a long view as 0. Its
own window is not in the data, so figures compare on these windows alone: with a factorisation machine, its baseline, on
the same IDs and numbers. Both learn long views alone, from logs in which these are the clicks: also the counts of the
days before are theirs. Each has two learning rates, of which the better one on the validation pages is taken.

What the work directory holds is not made again. `--quick` trains one seed for one epoch.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import read_json
from benchmarks.base import ROOT, WORK, benchmark_parser, peer_command, run_benchmark
from benchmarks.ranker.kuairand import (
    PARTS,
    Ours,
    Point,
    compare,
    features_of_ours,
    make_rows,
    open_dataset,
    part_windows,
)
from benchmarks.tables.ranker import kuairand_tasks
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import PageLengths, page_batches
from models.evaluation.comparison import Candidates, mean_over_runs, metric_samples, summaries
from models.evaluation.scored_pages import ScoredPages
from models.metrics.auc import auc, group_auc
from models.metrics.bootstrap import bootstrap_counts, interval, resampled_sums
from models.ranker.config import TrainingConfig
from models.ranker.run import CONFIG_FILE, HISTORY_FILE

WINDOWS = {"until May 2": "2022-04-25,2022-05-02", "until May 4": "2022-04-25,2022-05-04"}
TEST_DAYS = 2
TASKS = ("ctr", "ctcvr", "long_visit")
FEW = 16  # impressions in seven days
POINT = Point(learning_rate=2e-3, dropout=0.0, weight_decay=0.0)
OPTIONS = ("ranker.tasks.ctcvr=0.5", "ranker.tasks.long_visit=0.5")
LONG_VIEW_POINTS = (Point(1e-3, 0.0, 0.0), Point(2e-3, 0.0, 0.0))
FM_LEARNING_RATES = (1e-3, 3e-3)
_DAY = 86_400_000
_TOP = 5


class PerUser(NamedTuple):
    """Numerators and denominators of the protocol's metrics by user, `(users,)` each.

    Attributes:
        auc: AUC times long views, of users with both kinds of impressions.
        weight: long views of these.
        ndcg: nDCG of the 5 first.
        known: 1 of each user.
    """

    auc: np.ndarray
    weight: np.ndarray
    ndcg: np.ndarray
    known: np.ndarray


def per_user(scores: np.ndarray, positive: np.ndarray, user: np.ndarray) -> PerUser:
    """The protocol's metrics of each user.

    Args:
        scores: `(n,)`.
        positive: bool, `(n,)`.
        user: number of the user, from 0 without gaps.
    """
    users = int(user.max()) + 1
    groups = group_auc(scores, positive, user)
    positives = np.bincount(user, positive, users)
    weight = np.where(groups.valid, positives, 0)
    order = np.lexsort((-scores, user))
    starts = np.searchsorted(user[order], np.arange(users))
    rank = np.arange(len(user)) - starts[user[order]]
    discount = np.where(rank < _TOP, 1 / np.log2(rank + 2), 0)
    gain = np.bincount(user[order], discount * positive[order], users)
    # Of the best order: all long views first.
    best = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(_TOP) + 2))])[np.minimum(positives, _TOP).astype(int)]
    ndcg = np.divide(gain, best, out=np.zeros(users), where=best > 0)
    return PerUser(weight * np.nan_to_num(groups.auc), weight, ndcg, np.ones(users))


def protocol(systems: dict[str, list[np.ndarray]], positive: np.ndarray, user: np.ndarray) -> dict[str, Any]:
    """GAUC and nDCG@5 of systems, the means of their runs, with paired differences from the first.

    Args:
        systems: name to the scores of each run.
        positive, user: as in `per_user`.
    """
    users = int(user.max()) + 1
    counts = bootstrap_counts(users)
    samples = {}
    for name, runs in systems.items():
        sums = [resampled_sums(np.stack(per_user(each, positive, user)), counts, np.arange(users)) for each in runs]
        samples[name] = np.mean([[each[0] / each[1], each[2] / each[3]] for each in sums], axis=0)
    first = next(iter(samples.values()))
    result: dict[str, Any] = {}
    for name, values in samples.items():
        gaps = values - first
        low, high = interval(gaps[:, 1:])
        result[name] = {
            metric: {"value": float(values[n, 0])}
            | (
                {}
                if values is first
                else {"difference": float(gaps[n, 0]), "low": float(low[n]), "high": float(high[n])}
            )
            for n, metric in enumerate(("gauc", "ndcg_5"))
        }
    return result


def fm_scores(rows: Path, learning_rate: float, seed: int, *options: str) -> np.ndarray:
    """Scores of all rows by the factorisation machine, trained if they are not there."""
    scores = rows.with_name(f"fm_{learning_rate}_{seed}.npz")
    if not scores.exists():
        arguments = ("--rows", rows.resolve(), "--scores", scores.resolve(), "--seed", seed, *options)
        module = "benchmarks.ranker.peers.kuairand_fm"
        command = peer_command("fuxictr", module, *arguments, "--learning-rate", learning_rate)
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    return np.load(scores)["scores"]


def shown_before(dataset: Dataset, chosen: np.ndarray) -> np.ndarray:
    """How often each candidate of the test pages was shown in the seven days before, of the chosen ones."""
    lengths = PageLengths(candidates=dataset.manifest.max_candidates, click=0, pay=0, cart=0)
    counts = []
    for page in page_batches(dataset, "test", lengths, batch_size=512):
        row, place = np.nonzero(page["item"].numpy() != -1)
        counts.append(page["impressions_7d"].numpy()[row, place])
    return np.concatenate(counts)[chosen]


def of_tasks(scored: list[ScoredPages], few: np.ndarray) -> dict[str, Any]:
    """Metrics of each task with intervals over users and the spread over runs, for all and for rarely shown ones."""
    first = scored[0]
    result: dict[str, Any] = {}
    for task in TASKS:
        happened = first.clicked if task == "ctr" else first.outcome(task)[0]
        candidates = Candidates.of(first.page, first.user, happened, 1.0)
        counts = bootstrap_counts(int(candidates.user.max()) + 1)
        result[task] = {"rate": float(happened.mean())}
        for part, rows in (("all", np.arange(len(few))), ("few", np.flatnonzero(few))):
            runs = [getattr(each, task)[rows] for each in scored]
            samples = metric_samples(runs, candidates.select(rows), counts)
            (summary,) = summaries(mean_over_runs(samples, {task: range(len(runs))}))
            spread = samples[:, 0, 0].std(ddof=1) if len(runs) > 1 else 0.0
            result[task][part] = {
                "candidates": len(rows),
                "auc": summary["auc"],
                "auc_deviation": float(spread),
                "auc_interval": summary["intervals"]["auc"],
                "gauc_user_mean": summary["gauc_user_mean"],
                "gauc_user_interval": summary["intervals"]["gauc_user_mean"],
            }
    return result


def window_study(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures the three tasks, and then the protocol, in one window."""
    seeds = range(1 if options.quick else options.seeds)
    work = options.work_dir / name.replace(" ", "_")
    work.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(options.source, work, WINDOWS[name])
    runs_dir = work / ("quick" if options.quick else "runs")
    runs_dir.mkdir(exist_ok=True)
    features = features_of_ours(dataset, item_numbers=True)  # a view is long by the length of the video
    ours = Ours(dataset, runs_dir, "tasks", [features, *OPTIONS, f"epochs={1 if options.quick else 2}"])
    runs = [ours.run(POINT, seed) for seed in tqdm(seeds, desc=name, unit="training")]
    windows = part_windows(dataset, load_config(TrainingConfig, str(runs[0] / CONFIG_FILE)))
    scored = [ours.scores(run, *windows["test"]) for run in runs]
    chosen = in_test_days(scored[0])
    scored = [each.select(chosen) for each in scored]

    return {
        "candidates": int(chosen.sum()),
        "users": len(np.unique(scored[0].user)),
        "tasks": of_tasks(scored, shown_before(dataset, chosen) < FEW),
        "protocol": long_views(name, options),
    }


def long_views(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The public protocol in one window: rankers and machines that learn long views alone."""
    seeds = range(1 if options.quick else options.seeds)
    work = options.work_dir / f"{name.replace(' ', '_')}_long_views"
    work.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(options.source, work, WINDOWS[name], clicked="long_view")
    runs_dir = work / ("quick" if options.quick else "runs")
    runs_dir.mkdir(exist_ok=True)
    features = features_of_ours(dataset, item_numbers=True)
    ours = Ours(dataset, runs_dir, "long_views", [features, f"epochs={1 if options.quick else 4}"])
    points = LONG_VIEW_POINTS[: 1 if options.quick else None]
    runs = {
        point: [ours.run(point, seed) for seed in tqdm(seeds, desc=f"{name}, {point.learning_rate}")]
        for point in points
    }
    aucs = {point: [max(read_json(run / HISTORY_FILE)["val_auc"]) for run in found] for point, found in runs.items()}
    point = max(aucs, key=lambda each: np.mean(aucs[each]))
    windows = part_windows(dataset, load_config(TrainingConfig, str(runs[point][0] / CONFIG_FILE)))
    scored = [ours.scores(run, *windows["test"]) for run in runs[point]]
    chosen = in_test_days(scored[0])

    rows, file = make_rows(dataset, windows), runs_dir / "rows.npz"
    np.savez(file, **rows)
    validation, test = (rows["part"] == PARTS.index(part) for part in ("validation", "test"))
    quick = ("--epochs", "2") if options.quick else ()
    rates = FM_LEARNING_RATES[: 1 if options.quick else None]
    machines = {rate: [fm_scores(file, rate, seed, *quick) for seed in seeds] for rate in rates}
    viewed = rows["clicked"] == 1
    of_machines = {
        rate: [auc(each[validation], viewed[validation]) for each in found] for rate, found in machines.items()
    }
    rate = max(of_machines, key=lambda each: np.mean(of_machines[each]))
    if not np.array_equal(scored[0].clicked, viewed[test]):
        raise InputError("the rows and the scores of the ranker are not in the same order")
    scored = [each.select(chosen) for each in scored]
    systems = {"fm": [each[test][chosen] for each in machines[rate]], "ours": [each.ctr for each in scored]}
    user = np.unique(scored[0].user, return_inverse=True)[1]
    return {
        "systems": protocol(systems, scored[0].clicked, user),
        "auc": compare(scored[0], systems),
        "users_with_a_long_view": float((np.bincount(user, scored[0].clicked) > 0).mean()),
        "validation_auc": {
            "fm": {str(each): float(np.mean(found)) for each, found in of_machines.items()},
            "ours": {str(each.learning_rate): float(np.mean(found)) for each, found in aucs.items()},
        },
    }


def in_test_days(scored: ScoredPages) -> np.ndarray:
    """Which candidates were shown on the days that are tested."""
    return scored.timestamp < scored.timestamp.min() // _DAY * _DAY + TEST_DAYS * _DAY


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures in both windows, prints the tables and returns the result."""
    windows = {name: window_study(name, options) for name in WINDOWS}
    figures = {"seeds": 1 if options.quick else options.seeds, "few": FEW, "windows": windows}
    print(kuairand_tasks(figures))
    return figures


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one seed, one epoch")
    add = parser.add_argument
    add("--source", type=Path, default=Path("../shared/data/kuairand_impressions"), help="KuaiRand's files")
    add("--work-dir", type=Path, default=WORK / "kuairand_tasks", help="what is there is reused")
    add("--seeds", type=int, default=3)
    run_benchmark("kuairand_tasks", parser, study)


if __name__ == "__main__":
    main()
