"""What embeddings know of labels that nobody taught them: a report on one embedding or on several side by side."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from beam_pipelines.shell.progress import progress_bar
from models.embeddings.identity_recall import RANKS, counterpart_ranks, counterparts, identity_recall
from models.embeddings.label_consistency import (
    UNLABELLED,
    chance_consistency,
    label_consistency,
    label_shares,
    title_groups,
)
from models.embeddings.neighbours import Neighbours, largest_k
from models.embeddings.probes import ProbeSplit, knn_probe, linear_probe, probe_split

PROBE_ITEMS = 10_000
"""Items that probes are trained and tested on, at most: a regression on 100 labels takes its time."""


class ReportTable(NamedTuple):
    """A part of the report as people read it.

    Attributes:
        title: what it shows.
        rows: cells; the first row and the first cell of each row are headings.
    """

    title: str
    rows: list[list[str]]


def label_report(
    indexes: Mapping[str, Neighbours],
    embeddings: Mapping[str, np.ndarray],
    has_image: np.ndarray,
    labels: Mapping[str, np.ndarray],
    titles: np.ndarray,
    *,
    k: int,
    queries: int,
    seed: int,
) -> dict[str, Any]:
    """Measures KNN label consistency, a linear and a k-NN probe by label, and Identity Recall by title.

    Items of one title are taken for one product, whose colours resemble each other: their errors are not independent,
    a probe gets them on the same side of its split, and where exactly two items have a title and a picture, each is the
    counterpart that Identity Recall looks for.

    Args:
        indexes: name of embeddings to their index; all of the same items and metric.
        embeddings: the same names to `(items, dim)` by item row, for the probes.
        has_image: bool `(items,)`.
        labels: name to int `(items,)`, -1 = no label; at least one.
        titles: int `(items,)`, -1 = no title.
        k: neighbours of each seed.
        queries: seeds and Identity Recall's queries, at most.
        seed: of the samples and splits.

    Returns:
        The report, ready for JSON: `labels` by name, `identity_recall` by embedding or `None`.
    """
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(has_image)
    seeds = _sample(rng, rows, queries)
    probed = _sample(rng, rows, PROBE_ITEMS)
    counterpart = counterparts(np.where(has_image, titles, -1))
    paired = _sample(rng, np.flatnonzero(counterpart >= 0), queries)
    ranks = [rank for rank in RANKS if rank <= largest_k(len(rows))]
    products = title_groups(titles)
    splits = {name: _split(codes[probed], products[probed], seed) for name, codes in labels.items()}

    shares: dict[str, dict[str, np.ndarray]] = {name: {} for name in labels}
    recalls = {}
    lookups = len(indexes) * (len(seeds) + len(paired))
    with progress_bar(total=lookups, desc="looking up neighbours", unit="item") as progress:
        for embedding, index in indexes.items():
            blocks: dict[str, list[np.ndarray]] = {name: [] for name in labels}
            for nearest in index.blocks(seeds, k):
                for name, codes in labels.items():
                    blocks[name].append(label_shares(codes[nearest.seeds], codes[nearest.rows]))
                progress.update(len(nearest.seeds))
            for name, parts in blocks.items():
                shares[name][embedding] = np.concatenate(parts)
            if len(paired) and ranks:
                found = []
                for nearest in index.blocks(paired, max(ranks)):
                    found.append(counterpart_ranks(nearest.rows, counterpart[nearest.seeds]))
                    progress.update(len(nearest.seeds))
                recalls[embedding] = identity_recall(np.concatenate(found), ranks)._asdict()

    probes: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in labels}
    with progress_bar(total=len(indexes) * len(labels), desc="probing", unit="label") as progress:
        for embedding, index in indexes.items():
            frozen = np.asarray(embeddings[embedding][probed], np.float32)
            for name, codes in labels.items():
                probes[name][embedding] = {}
                if (split := splits[name]) is not None:
                    probes[name][embedding] = {
                        "linear": linear_probe(frozen, codes[probed], split)._asdict(),
                        "knn": knn_probe(frozen, codes[probed], split, k, index.metric)._asdict(),
                    }
                progress.update()
    return {
        "k": k,
        "metric": next(iter(indexes.values())).metric,
        "items_with_image": len(rows),
        "seeds": len(seeds),
        "labels": {
            name: {
                "values": len(np.unique(codes[rows][codes[rows] != UNLABELLED])),
                "chance": chance_consistency(codes[rows]),
                "consistency": {
                    embedding: label_consistency(share, products[seeds])._asdict()
                    for embedding, share in shares[name].items()
                },
                "gain": {
                    embedding: label_consistency(share - next(iter(shares[name].values())), products[seeds])._asdict()
                    for embedding, share in list(shares[name].items())[1:]
                },
                "probes": probes[name],
            }
            for name, codes in labels.items()
        },
        "identity_recall": recalls or None,
    }


def report_tables(report: Mapping[str, Any]) -> list[ReportTable]:
    """The report for people, see `label_report`."""
    labels = report["labels"]
    embeddings = list(next(iter(labels.values()))["consistency"])
    gains = [f"{name} - {embeddings[0]}" for name in embeddings[1:]]
    consistency = [["label", "values", "chance", *embeddings, *gains, "left out"]]
    probes = [["label", *(f"{name} {probe}" for name in embeddings for probe in ("linear", "k-NN"))]]
    for name, measured in labels.items():
        entries = measured["consistency"].values()
        consistency.append(
            [
                name,
                f"{measured['values']}",
                f"{measured['chance']:.4f}",
                *(f"{entry['mean']:.4f} ± {entry['standard_error']:.4f}" for entry in entries),
                *(f"{gain['mean']:+.4f} ± {gain['standard_error']:.4f}" for gain in measured["gain"].values()),
                f"{next(iter(entries))['left_out']}",
            ]
        )
        probes.append(
            [name, *(_accuracy(measured["probes"][e].get(probe)) for e in embeddings for probe in ("linear", "knn"))]
        )
    accuracies = [accuracy for measured in labels.values() for accuracy in measured["probes"].values() if accuracy]
    tested = max((accuracy["linear"]["test_items"] for accuracy in accuracies), default=0)
    tables = [
        ReportTable(
            f"KNN label consistency: share of the {report['k']} nearest items ({report['metric']}) that carry the "
            f"seed's label, mean of {report['seeds']} seeds ± standard error",
            consistency,
        ),
        ReportTable(
            f"Probes: top-1 / top-5 accuracy on {tested} test items, whose titles no training item has", probes
        ),
    ]
    if recalls := report["identity_recall"]:
        first = next(iter(recalls.values()))
        rows = [["embeddings", *(f"@{rank}" for rank in first["recall"])]]
        rows += [
            [name, *(f"{recall['recall'][r]:.4f} ± {recall['standard_error'][r]:.4f}" for r in recall["recall"])]
            for name, recall in recalls.items()
        ]
        tables.append(
            ReportTable(
                f"Identity Recall: how often the other item of a title that exactly two items have is among the "
                f"nearest, {first['queries']} queries",
                rows,
            )
        )
    return tables


def _accuracy(probe: Mapping[str, Any] | None) -> str:
    return f"{probe['top1']:.4f} / {probe['top5']:.4f}" if probe else "-"


def _split(labels: np.ndarray, products: np.ndarray, seed: int) -> ProbeSplit | None:
    """The probes' split, `None` where the labels do not allow one."""
    try:
        return probe_split(labels, products, seed)
    except ValueError:
        return None


def _sample(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    """Draws at most `count` rows, in order."""
    return np.sort(rng.choice(rows, min(count, len(rows)), replace=False))
