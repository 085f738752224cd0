"""Retrieve, then rank: how much of what is clicked each stage finds, and how long each takes.

    python -m benchmarks.serving.recommend [--data DIR --embeddings DIR --clusters DIR] [--quick]

Trains a two-tower retriever and a ranker as a user would, publishes both through their gates, serves them from one
`export.serve` on loopback and asks `RankerClient.recommend` for the first 500 test pages with a click on an item that
the user did not have: with the page's histories, 200 candidates, and the numbers of the last days that the newest
earlier page with a candidate says of it. What is to be found are those clicked items; recall@K is their share among the
first K, the mean over pages, with an interval by a bootstrap over pages, paired in the difference.

The figures: recall of the retriever's order, of the ranker's order of the candidates, and what the ranker adds; the
same of items on no train page; the share of its exact candidates that ScaNN finds; median and 95th percentile of each
stage's time, as the client sees it. `--quick` asks for 200 pages.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module
from benchmarks.serving.load import server
from export import History, Page, RankerClient, publish, publish_retrieval
from export.version.request_rows import request_row
from models.data.dataset import Dataset
from models.data.pages import items_on_pages, page_records
from models.features.spec import STATISTICS
from models.ranker.run import RowIds

CANDIDATES = 200
CUTOFFS = (10, 20, 50, 100, 200)
RESAMPLES = 2000
PAGES = 500
QUICK_PAGES = 200


class Question(NamedTuple):
    """A page without its items, what was clicked there that the user did not have, and what is known of items."""

    page: Page
    wanted: list[str]
    numbers: Mapping[str, Mapping[str, Any]]


class Places(NamedTuple):
    """Where a wanted item came: from 0 on, and beyond all where it did not. By page number."""

    page: int
    retrieved: float
    ranked: float
    is_unseen: bool


def questions(dataset: Dataset) -> list[Question]:
    """The test pages in the order of time."""
    ids = RowIds(dataset.items()["item_id"].to_pylist(), dataset.users()["user_id"].to_pylist())
    known: dict[str, dict[str, Any]] = {}
    asked = []
    for split in ("train", "test"):
        records = list(page_records(dataset, split).as_numpy_iterator())
        rows = [(request_row(record, ids, STATISTICS), _clicked(record)) for record in records]
        for row, clicked in sorted(rows, key=lambda each: each[0]["timestamp"]):
            items = row["item_id"]
            if split == "test":
                histories = {
                    name: History(row[f"{name}_item_id"], row[f"{name}_time"]) for name in ("click", "pay", "cart")
                }
                had = {item for history in histories.values() for item in history.item_ids}
                wanted = [
                    item for item, is_clicked in zip(items, clicked, strict=True) if is_clicked and item not in had
                ]
                if wanted:
                    page = Page(row["user_id"], (), row["timestamp"], row["query"], histories)
                    asked.append(Question(page, wanted, dict(known)))
            for n, item in enumerate(items):
                known[item] = {name: row[name][n] for name in STATISTICS}
    return asked


def _clicked(record: bytes) -> list[int]:
    return list(tf.train.Example.FromString(record).features.feature["clicked"].int64_list.value)


def ask(client: RankerClient, asked: Sequence[Question], unseen: set[str]) -> tuple[list[Places], np.ndarray]:
    """Places of all wanted items, and the seconds of both stages by page."""
    places, seconds = [], []
    for number, question in enumerate(tqdm(asked, desc="asking", unit="page")):

        def describe(items: Sequence[str], question: Question = question) -> dict[str, list[Any]]:
            return {name: [question.numbers.get(item, {}).get(name, -1) for item in items] for name in STATISTICS}

        found = client.recommend(question.page, CANDIDATES, candidates=CANDIDATES, describe=describe)
        seconds.append((found.retrieval_seconds, found.ranking_seconds))
        orders = [{item: place for place, item in enumerate(order)} for order in (found.candidates, found.scores)]
        for item in question.wanted:
            places.append(Places(number, *(order.get(item, np.inf) for order in orders), item in unseen))
    return places, np.array(seconds)


def recalls(places: Sequence[Places]) -> dict[str, Any]:
    """Recall of both orders at each cutoff, and their difference with its interval."""
    numbers = np.array([each.page for each in places])
    _, of_page, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    result: dict[str, Any] = {"pages": len(counts), "items": len(places)}
    draws = np.random.default_rng(0).integers(0, len(counts), (RESAMPLES, len(counts)))
    for k in CUTOFFS:
        shares = {
            order: np.bincount(of_page, [getattr(each, order) < k for each in places]) / counts
            for order in ("retrieved", "ranked")
        }
        gains = (shares["ranked"] - shares["retrieved"])[draws].mean(axis=1)
        result[f"recall@{k}"] = {order: float(share.mean()) for order, share in shares.items()} | {
            "difference": float((shares["ranked"] - shares["retrieved"]).mean()),
            "low": float(np.percentile(gains, 2.5)),
            "high": float(np.percentile(gains, 97.5)),
        }
    return result


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="200 pages")
    parser.add_argument("--data", default="artifacts/dataset")
    parser.add_argument("--embeddings", default="artifacts/embeddings")
    parser.add_argument("--clusters", default="artifacts/clusters")
    run_benchmark("recommend", parser, measure)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, publishes, asks and prints the table."""
    dataset = Dataset(args.data)
    asked = questions(dataset)[: QUICK_PAGES if args.quick else PAGES]
    item_ids = np.array(dataset.items()["item_id"].to_pylist(), object)
    unseen = set(item_ids[~items_on_pages(dataset, "train")])
    work = WORK / "recommend"
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "retriever").exists():
        options = ("--method", "two_tower", "--embeddings", args.embeddings, "--output", work / "retriever")
        run_module("models.train_retrieval", "--data", args.data, *options, log=work / "retriever.log")
    if not (work / "ranker").exists():
        options = ("--image-feature", "cluster_id", "--clusters", args.clusters, "--output", work / "ranker")
        run_module("models.train_ctr", "--data", args.data, *options, log=work / "ranker.log")
    with tempfile.TemporaryDirectory() as directory:
        served = Path(directory)
        publish_retrieval(work / "retriever", served / "retrieval", k=CANDIDATES)
        publish(work / "ranker", served / "ranker", skew_pages=50)
        scann = publish_retrieval(work / "retriever", served / "scann", k=CANDIDATES, index="scann")
        models = "".join(
            f'config {{ name: "{name}" base_path: "{served / name}" model_platform: "tensorflow" }} '
            for name in ("ranker", "retrieval")
        )
        (served / "models.config").write_text(f"model_config_list {{ {models}}}")
        with (
            server("--model-config-file", str(served / "models.config")) as running,
            RankerClient(running.grpc, timeout=60) as client,
        ):
            places, seconds = ask(client, asked, unseen)
    result: dict[str, Any] = {
        "notice": dataset.manifest.notice,
        "items": len(item_ids),
        "candidates": CANDIDATES,
        "scann_recall": scann.recall,
        "all": recalls(places),
        "unseen_items": recalls([each for each in places if each.is_unseen]),
    }
    for stage, times in zip(("retrieval", "ranking"), 1e3 * seconds.T, strict=True):
        result |= {f"{stage}_p50_ms": float(np.median(times)), f"{stage}_p95_ms": float(np.percentile(times, 95))}
    for part in ("all", "unseen_items"):
        for k in CUTOFFS:
            print(part, f"recall@{k}", result[part][f"recall@{k}"])
    return result


if __name__ == "__main__":
    main()
