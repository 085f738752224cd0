"""The value of a policy from the log of another, beside its own mean: the Open Bandit sample, real impressions.

    python -m benchmarks.experiments.off_policy [--source DIR]

Two policies of a fashion shop, Random and Bernoulli Thompson sampling (BTS), of each 10,000 impressions of one week are
known, for men's and for women's items; what an impression earns is a click. BTS from Random's log: BTS's probabilities
of items at each position are taken to be the shares in its own log, as it changed over the week; the error of these
shares is not in the intervals. Random from BTS's log: the probabilities are exact, those that BTS has logged and one
over the number of items. The model of the doubly robust estimate is the item's smoothed click rate in the other half of
the log.

There are no users in the sample and its rows were drawn one by one: rows are the units.

Reference: Saito, Aihara, Matsutani, Narita, Open Bandit Dataset and Pipeline (2020).
"""

import argparse
import csv
import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError
from benchmarks.base import ROOT, benchmark_parser, run_benchmark
from benchmarks.tables.experiments import off_policy
from models.experiments.off_policy import doubly_robust, importance_weights, ips, snips

POSITIONS = 3
_PRIOR = 100  # impressions at the mean rate that an item's rate is smoothed by


class Log(NamedTuple):
    """Item and position `(n,)` from 0, reward, and the probability of the item at this position."""

    item: np.ndarray
    position: np.ndarray
    reward: np.ndarray
    probability: np.ndarray


def read_log(path: Path) -> Log:
    """Reads a log of the sample."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    item = np.array([int(row["item_id"]) for row in rows])
    position = np.array([int(row["position"]) for row in rows]) - 1
    reward = np.array([float(row["click"]) for row in rows])
    return Log(item, position, reward, np.array([float(row["propensity_score"]) for row in rows]))


def shares(log: Log, items: int) -> np.ndarray:
    """How often the policy of a log showed each item at each position: `(items, POSITIONS)`, columns sum to 1."""
    counts = np.zeros((items, POSITIONS))
    np.add.at(counts, (log.item, log.position), 1)
    return counts / counts.sum(axis=0)


def estimate(log: Log, target: np.ndarray) -> dict[str, dict[str, float]]:
    """All estimates of a policy, `target` of `shares`, from the log of another."""
    weight = importance_weights(target[log.item, log.position], log.probability)
    predicted, of_policy = np.empty(len(weight)), np.empty(len(weight))
    half = np.arange(len(weight)) % 2
    for part in (0, 1):
        learned, asked = half != part, half == part
        mean = log.reward[learned].mean()
        seen = np.bincount(log.item[learned], minlength=len(target))
        clicks = np.bincount(log.item[learned], log.reward[learned], minlength=len(target))
        rate = (clicks + _PRIOR * mean) / (seen + _PRIOR)
        predicted[asked] = rate[log.item[asked]]
        of_policy[asked] = (rate @ target)[log.position[asked]]
    return {
        "ips": ips(log.reward, weight)._asdict(),
        "snips": snips(log.reward, weight)._asdict(),
        "doubly_robust": doubly_robust(log.reward, weight, predicted, of_policy)._asdict(),
    }


def study(options: argparse.Namespace) -> dict:
    """Estimates both policies in both campaigns, prints the table and returns it."""
    if not options.source.is_dir():
        raise InputError(f"no Open Bandit sample in {options.source}; --source says where it is")
    cases = {}
    for campaign in ("men", "women"):
        logs = {name: read_log(options.source / f"{name}_{campaign}.csv.gz") for name in ("random", "bts")}
        items = 1 + max(int(log.item.max()) for log in logs.values())
        uniform = np.full((items, POSITIONS), 1 / items)
        for title, log, own, target in (
            ("BTS, Random", logs["random"], logs["bts"], shares(logs["bts"], items)),
            ("Random, BTS", logs["bts"], logs["random"], uniform),
        ):
            cases[f"{campaign}: {title}"] = {
                "own": ips(own.reward, np.ones(len(own.reward)))._asdict(),
                "clicks": int(log.reward.sum()),
                "own_clicks": int(own.reward.sum()),
                **estimate(log, target),
            }
    figures = {"cases": cases}
    print(off_policy(figures))
    return figures


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "the same: it is quick")
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared/data/zozo_open_bandit")
    run_benchmark("off_policy", parser, study)
