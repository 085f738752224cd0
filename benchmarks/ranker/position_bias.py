"""What a position adds to the log-odds of a click, as a ranker learns it, beside a log of items drawn at random.

    .venv/bin/python -m benchmarks.ranker.position_bias [--source DIR] [--work-dir DIR] [--seeds N] [--quick]

The Open Bandit sample: two policies of a fashion shop, of each 10,000 impressions of men's and of women's items, each
at one of three positions. Random drew its items, so that in its log positions differ by their place alone. Bernoulli
Thompson sampling (BTS) chose them: its log is what a ranker learns on, with `ranker.position_bias` and the item, the
campaign and what is known of the user. What it has learned of the second and third position less the first stands
beside three estimates by counting: Random's log-odds, BTS's as they are, and BTS's with impressions weighed by one over
their propensity, up to ten times the median weight. Intervals are by a bootstrap over impressions.

A click is rare there (207 in all), so that a second world has planted clicks on the impressions of BTS: more of them,
with merits of items by how much rather BTS showed them first than last, and a known effect of the position. There the
plain log-odds are wrong by what the policy did, and the ranker can be seen to find the effect.

There are no users in the sample and its rows were drawn one by one: each is a page of one candidate, without history.
`--quick` trains one seed.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from scipy.special import expit, logit
from tqdm import tqdm

from beam_pipelines.format.errors import InputError
from benchmarks.base import ROOT, WORK, benchmark_parser, run_benchmark, run_module
from benchmarks.tables.ranker import position_bias
from models.config import load_config
from models.data.dataset import Dataset
from models.ranker.config import TrainingConfig
from models.ranker.ranker import Ranker, default_optimizer

CAMPAIGNS = ("men", "women")
POSITIONS = 3
PLANTED = (0.0, -0.4, -0.8)
"""Log-odds of each position in the second world."""
_PLANTED_RATE = 0.15
_LARGEST_WEIGHT = 10  # medians: a propensity of 1e-6 would outweigh all others
_SAMPLES = 2000
_EPOCHS, _BATCH = 20, 256
_CONFIG = (
    "learning_rate=5e-3",
    "weight_decay=1e-4",
    f"ranker.position_bias={POSITIONS - 1}",
    "ranker.lengths={candidates: 1, click: 0, pay: 0, cart: 0}",
    "ranker.features.item={item_id: {type: id, dropout: 0.0, min_count: 1, match: false}}",
    "ranker.features.user={cat_0: {type: category}, cat_1: {type: category}, cat_2: {type: category}}",
    "ranker.features.candidate={}",
    "ranker.embedding_dim=8",
    "ranker.item_dim=0",
    "ranker.mlp_units=[32, 16]",
)


def read_log(source: Path, policy: str) -> pa.Table:
    """The impressions of a policy in both campaigns, with the campaign and positions from 0."""
    parts = []
    for campaign in CAMPAIGNS:
        table = pa_csv.read_csv(source / f"{policy}_{campaign}.csv.gz")
        parts.append(table.append_column("campaign", pa.array([campaign] * len(table))))
    table = pa.concat_tables(parts)
    return table.set_column(
        table.column_names.index("position"), "position", pa.array(table["position"].to_numpy() - 1)
    )


def item_names(log: pa.Table) -> np.ndarray:
    """Items of both campaigns by one name each."""
    return np.array([f"{c}-{i}" for c, i in zip(log["campaign"].to_pylist(), log["item_id"].to_pylist(), strict=True)])


def write_logs(log: pa.Table, clicked: np.ndarray, directory: Path) -> None:
    """Writes impressions as a log directory: a page and a user each."""
    rows, names = len(log), item_names(log)
    numbers = [str(row) for row in range(rows)]
    directory.mkdir(parents=True)
    impressions = {
        "page_id": numbers,
        "user_id": numbers,
        "item_id": names,
        "timestamp": log["timestamp"].cast(pa.string()),
        "position": log["position"],
        "clicked": clicked.astype(np.int64),
        "query": log["campaign"],
    }
    known = np.unique(names)
    empty = [""] * len(known)
    items = {"item_id": known, "category": [name.split("-")[0] for name in known], "title": empty, "image": empty}
    users = {"user_id": numbers} | {f"cat_{n}": log[f"user_feature_{n}"] for n in range(3)}
    for name, table in (("impressions", impressions), ("items", items), ("users", users)):
        pq.write_table(pa.table(table), directory / f"{name}.parquet")


def effect(position: np.ndarray, clicked: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Log-odds of a click at each position less those at the first."""
    shown, clicks = (np.bincount(position, values, POSITIONS) for values in (weight, weight * clicked))
    with np.errstate(divide="ignore"):
        odds = np.log(clicks) - np.log(shown - clicks)
    return odds - odds[0]


def counted(position: np.ndarray, clicked: np.ndarray, weight: np.ndarray) -> list[dict[str, float]]:
    """`effect` of the later positions with 95 % intervals."""
    rng = np.random.default_rng(0)
    found = effect(position, clicked, weight)
    counts = (rng.multinomial(len(position), np.full(len(position), 1 / len(position))) for _ in range(_SAMPLES))
    samples = np.array([effect(position, clicked, weight * count) for count in counts])
    low, high = np.quantile(samples, (0.025, 0.975), axis=0)
    return [{"value": found[n], "low": low[n], "high": high[n]} for n in range(1, POSITIONS)]


def learned(logs: Path, seeds: range) -> list[list[float]]:
    """What rankers learn of the later positions, by seed."""
    data = logs.with_name(f"{logs.name}_dataset")
    options = ("--logs", logs, "--output", data, "--split-by-time", "2019-11-01,2020-01-01")
    run_module("beam_pipelines.build", *options, log=logs.with_name(f"{logs.name}.log"))
    pages, config = Dataset(data).pages("train"), load_config(TrainingConfig, None, _CONFIG)
    found = []
    for seed in tqdm(seeds, desc=logs.name, unit="ranker"):
        keras.utils.set_random_seed(seed)
        ranker = Ranker.adapt(pages, config=config.ranker)
        ranker.compile(default_optimizer(config))
        ranker.fit(pages.batches(_BATCH, shuffle=True, seed=seed), epochs=_EPOCHS, verbose=0)
        found.append(ranker.members[0].position_bias.bias.numpy().tolist())
    return found


def planted_clicks(log: pa.Table) -> np.ndarray:
    """Clicks by merits of items, as BTS's preference for showing them first, and by `PLANTED`."""
    position, (_, item) = log["position"].to_numpy(), np.unique(item_names(log), return_inverse=True)
    shown = (
        np.bincount(item * POSITIONS + position, minlength=POSITIONS * (item.max() + 1)).reshape(-1, POSITIONS) + 5.0
    )
    preference = np.log(shown[:, 0] / shown[:, 2])
    merit = (preference - preference.mean()) / preference.std() * 0.8
    probability = expit(logit(_PLANTED_RATE) + merit[item] + np.array(PLANTED)[position])
    return np.random.default_rng(1).random(len(log)) < probability


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Counts, trains, prints the table and returns it."""
    if not options.source.is_dir():
        raise InputError(f"no Open Bandit sample in {options.source}; --source says where it is")
    seeds = range(1 if options.quick else options.seeds)
    logs = {policy: read_log(options.source, policy) for policy in ("random", "bts")}
    bts = logs["bts"]
    planted = planted_clicks(bts)
    worlds: dict[str, Any] = {}
    ones = np.ones(len(bts))
    for world, clicked in (("real", bts["click"].to_numpy() == 1), ("planted", planted)):
        position, weight = bts["position"].to_numpy(), 1 / bts["propensity_score"].to_numpy()
        weight = np.minimum(weight, _LARGEST_WEIGHT * np.median(weight))
        directory = options.work_dir / world
        if not directory.exists():
            write_logs(bts, clicked, directory)
        runs = learned(directory, seeds)
        worlds[world] = {
            "clicks": int(clicked.sum()),
            "plain": counted(position, clicked, ones),
            "by_propensity": counted(position, clicked, weight),
            "ranker": np.mean(runs, axis=0).tolist(),
            "ranker_of_seeds": runs,
        }
    random = logs["random"]
    clicked = random["click"].to_numpy() == 1
    worlds["real"]["reference"] = counted(random["position"].to_numpy(), clicked, np.ones(len(random)))
    worlds["real"]["reference_clicks"] = int(clicked.sum())
    worlds["planted"]["reference"] = [{"value": PLANTED[n] - PLANTED[0]} for n in range(1, POSITIONS)]
    figures = {"seeds": len(seeds), "impressions": len(bts), "worlds": worlds}
    print(position_bias(figures))
    return figures


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one seed")
    add = parser.add_argument
    add("--source", type=Path, default=ROOT.parent / "shared/data/zozo_open_bandit", help="the sample's files")
    add("--work-dir", type=Path, default=WORK / "position_bias", help="logs and datasets; what is there is reused")
    add("--seeds", type=int, default=3)
    run_benchmark("position_bias", parser, study)


if __name__ == "__main__":
    main()
