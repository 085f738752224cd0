"""What embeddings know of labels on H&M: KNN label consistency before and after whitening.

    python -m benchmarks.clustering.label_consistency [--source DIR] [--work-dir DIR] [--config NAME] [--quick]

The share of an item's 10 nearest neighbours that carry its label, averaged over all items, for the product type
(`category`), the colour and the pattern (`label_graphical_appearance`). No label takes part in the training. Rows:

- `raw pixels`: the pictures themselves at a quarter of the encoder's input size;
- `random init`: the encoder before training;
- `courier`: trained by `models.pretrain` on the pre-training window, embedded by `models.embed`.

`whitened` rows use uncorrelated components of unit variance, fitted on the items of the pre-training window. Neighbours
are the nearest by Euclidean distance, as in the companion article, and by cosine, which is the Euclidean distance after
scaling to unit length. Standard errors are over products (items of one title), with seeds averaged; those of gains are
paired.
"""

import argparse
import statistics

import numpy as np
from tqdm import tqdm

from benchmarks.encoder.quality import pixel_vectors, untrained_embeddings, whiten
from benchmarks.hm.runs import open_dataset, run_study, study_parser, train_runs
from benchmarks.hm.similarity_pages import read_pages
from models.config import load_config
from models.data.pages import PADDING
from models.data.picture_store import PictureStore
from models.embeddings.label_consistency import (
    LabelConsistency,
    chance_consistency,
    label_codes,
    label_consistency,
    label_shares,
    title_groups,
)
from models.embeddings.neighbours import METRICS, Metric, Neighbours
from models.embeddings.page_contents import item_texts
from models.pretraining.config import PretrainConfig

LABELS = {"type": "category", "colour": "label_colour", "pattern": "label_graphical_appearance"}
"""By name in the result."""
ROWS = {"pixels": "raw pixels", "random": "random init", "courier": "courier"}  # likewise
K = 10
SHRINK = 4  # raw pixels are compared at the encoder's input size divided by this

Shares = dict[str, np.ndarray]
"""By label: of each seed, the share of its neighbours that carry its label."""


def consistency_shares(
    name: str, embeddings: np.ndarray, has_image: np.ndarray, labels: dict[str, np.ndarray], metric: Metric
) -> Shares:
    """Looks up the neighbours of all items with a picture."""
    seeds = np.flatnonzero(has_image)
    parts: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    with tqdm(total=len(seeds), desc=name, unit="item") as progress:
        for block in Neighbours(embeddings, has_image, metric).blocks(seeds, K):
            for label, codes in labels.items():
                parts[label].append(label_shares(codes[block.seeds], codes[block.rows]))
            progress.update(len(block.seeds))
    return {label: np.concatenate(of_blocks) for label, of_blocks in parts.items()}


def study(args: argparse.Namespace) -> dict:
    """Measures everything, prints the tables and returns the result."""
    dataset = open_dataset(args.source, args.work_dir)
    print(f"notice: {dataset.manifest.notice}", flush=True)
    config = load_config(PretrainConfig, args.config, args.set)
    store = PictureStore(dataset, config.image_size)
    has_image = store.picture_of_item >= 0
    window_items = np.setdiff1d(read_pages(dataset, "pretrain", has_image).candidates, [PADDING])
    items = dataset.items()
    labels = {name: label_codes(item_texts(items, column)) for name, column in LABELS.items()}
    products = title_groups(label_codes(item_texts(items, "title")))[has_image]
    rows: dict[Metric, dict[str, list[Shares]]] = {metric: {} for metric in METRICS}

    def add(name: str, embeddings: np.ndarray) -> None:
        for row, vectors in ((name, embeddings), (f"{name}, whitened", whiten(embeddings, window_items))):
            for metric in METRICS:
                shares = consistency_shares(f"{row}, {metric}", vectors, has_image, labels, metric)
                rows[metric].setdefault(row, []).append(shares)
                found = ", ".join(f"{label} {np.nanmean(of):.4f}" for label, of in shares.items())
                print(f"{row}, {metric}: {found}", flush=True)

    pictures = store.read_all()
    add("raw pixels", pixel_vectors(pictures, SHRINK)[store.picture_of_item])
    for seed in range(args.seeds):
        add("random init", untrained_embeddings(config, seed, pictures)[store.picture_of_item])
    del pictures
    seconds = []
    for _, _, run in train_runs(dataset, args.work_dir, args.config, {"courier": args.set}, args.seeds, args.jobs):
        add("courier", run.embeddings)
        seconds.append(round(run.seconds))

    return {
        "notice": dataset.manifest.notice,
        "items": int(has_image.sum()),
        "k": K,
        "seeds": args.seeds,
        "seconds": seconds,
        **{f"chance_{label}": round(chance_consistency(codes[has_image]), 4) for label, codes in labels.items()},
        **{metric: _figures(metric, rows[metric], products) for metric in METRICS},
    }


def _figures(metric: Metric, rows: dict[str, list[Shares]], products: np.ndarray) -> dict[str, float]:
    """Prints the tables of a metric and returns what they say."""
    mean = {row: {label: np.mean([s[label] for s in seeds], axis=0) for label in LABELS} for row, seeds in rows.items()}
    figures = {}
    print(f"\n{f'{K} nearest by {metric} distance':34s}" + "  ".join(f"{column:30s}" for column in LABELS.values()))
    for row, seeds in rows.items():
        cells = []
        for label in LABELS:
            spread = [np.nanmean(shares[label]) for shares in seeds]
            over = f" (seeds {statistics.stdev(spread):.4f})" if len(spread) > 1 else ""
            cells.append(f"{_text(label_consistency(mean[row][label], products))}{over}")
        print(f"{row:34s}" + "  ".join(f"{cell:30s}" for cell in cells))

    def gain(key: str, row: str, over: str) -> None:
        gains = {label: label_consistency(mean[row][label] - mean[over][label], products) for label in LABELS}
        print(f"{row} - {over}: " + ", ".join(f"{label} {_text(found, '+')}" for label, found in gains.items()))
        for label, found in gains.items():
            figures.update(_named(f"{key}_{label}", found))

    for name, row in ROWS.items():
        for label in LABELS:
            figures |= _named(f"{name}_{label}", label_consistency(mean[row][label], products))
            figures |= _named(f"{name}_whitened_{label}", label_consistency(mean[f"{row}, whitened"][label], products))
        gain(f"{name}_whitening_gain", f"{row}, whitened", row)
    for name in ("pixels", "random"):
        gain(f"gain_over_{name}", "courier", ROWS[name])
        gain(f"whitened_gain_over_{name}", "courier, whitened", f"{ROWS[name]}, whitened")
    return figures


def _text(result: LabelConsistency, sign: str = "") -> str:
    return f"{result.mean:{sign}.4f} +- {result.standard_error:.4f}"


def _named(name: str, result: LabelConsistency) -> dict[str, float]:
    return {name: round(result.mean, 4), f"{name}_error": round(result.standard_error, 4)}


if __name__ == "__main__":
    run_study("label_consistency", study, study_parser(__doc__))
