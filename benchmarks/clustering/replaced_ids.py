"""Cluster IDs on H&M when items go on coming: old ones, new ones from zero, and new ones in the place of old ones.

A ranker learns on the first half of the train pages with IDs of what was there by then, and is warm-started on the
second half with each kind of IDs; the test pages come after both. It reads what `benchmarks.pictures.published` has
made.
"""

import argparse
import datetime
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from benchmarks.base import WORK, benchmark_parser, run_benchmark
from models.clustering.cluster import cluster
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import Pages
from models.embeddings.embeddings import WHITENING_FILE, Embeddings
from models.embeddings.vectors import l2_normalize
from models.evaluation.evaluate import evaluate
from models.ranker.adapt import adapt_to_pages
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker, default_optimizer
from models.ranker.run import RankerMetadata, RankerRun
from models.ranker.warm_start import WarmStart

ARMS = ("old IDs, new items assigned", "new IDs from zero", "new IDs in the place of old ones")
_RANKER = RankerConfig(
    lengths=RankerLengths(cart=0),
    attention=AttentionConfig(histories="none", recent_steps=30),
    mlp_units=(64, 32),
    compare_clusters=False,
)
"""Clusters enter by their embedding alone, as in the paper: that is what a change of IDs loses."""
_FAR = np.iinfo(np.int64).max


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures."""
    seeds = range(1 if options.quick else options.seeds)
    work = WORK / "replaced_ids"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    dataset = Dataset(options.work_dir / "dataset")
    embeddings = Embeddings.load(options.work_dir / "runs/published-whitened/embeddings")
    first, second = dataset.pages("train").split(0.5)
    seen = _first_seen(dataset)
    old, new = _clusters(embeddings, seen, first, second, work)
    rankers: dict[str, list[Ranker]] = {name: [] for name in ("not trained further", *ARMS)}
    for seed in seeds:
        run = _first_ranker(first, old, work / f"first-{seed}", seed, options.epochs)
        rankers["not trained further"].append(run.ranker())
        for name, clusters, replaced in zip(ARMS, (old, new, new), (None, None, new.replaced), strict=True):
            print(f"seed {seed}, {name}", flush=True)
            rankers[name].append(_go_on(run, second, clusters, replaced, seed, options.epochs))
    base = ARMS[0]
    ordered = {base: rankers[base], **{name: each for name, each in rankers.items() if name != base}}
    report = evaluate(dataset, ordered, split="test")
    systems = report["systems"]
    matched = new.metadata.replaced
    assert matched is not None
    return {
        "seeds": len(seeds),
        "epochs": options.epochs,
        "pages": [len(first), len(second), report["pages"]],
        "clusters": old.metadata.num_clusters,
        "matched": matched.matched,
        "pictures": int((new.ids >= 0).sum()),
        "pictures_in_place": matched.pictures,
        "pictures_clustered": int((embeddings.has_image & (seen <= second.window.last)).sum()),
        "gauc": {name: systems[name]["all"]["gauc_page_mean"] for name in systems},
        "less_old": {name: systems[name]["all"]["differences"]["gauc_page_mean"] for name in systems if name != base},
        "by_month": _ageing(embeddings, seen, old, new, first.window.last),
    }


def _first_seen(dataset: Dataset) -> np.ndarray:
    """The moment of the first page that shows each item, or on which a history has it: int64 `(items,)`."""
    seen = np.full(dataset.manifest.items.file.records, _FAR)
    names = ("item", "click_item", "pay_item")
    spec = {name: tf.io.RaggedFeature(tf.int64) for name in names} | {"timestamp": tf.io.FixedLenFeature([], tf.int64)}
    for split in dataset.manifest.splits:
        for batch in dataset.pages(split).records().batch(512):
            parsed = tf.io.parse_example(batch, spec)
            moments = parsed["timestamp"].numpy()
            for name in names:
                rows = parsed[name]
                np.minimum.at(seen, rows.flat_values.numpy(), moments[rows.value_rowids().numpy()])
    return seen


def _clusters(
    embeddings: Embeddings, seen: np.ndarray, first: Pages, second: Pages, work: Path
) -> tuple[Clusters, Clusters]:
    """Clusters of what was there at the end of the first pages, and of the second; all items assigned to either."""
    made = []
    for name, pages in (("old", first), ("new", second)):
        metadata, directory = embeddings.metadata, work / f"{name}_embeddings"
        directory.mkdir()
        shutil.copyfile(embeddings.file(WHITENING_FILE), directory / WHITENING_FILE)
        known = Embeddings.save(
            directory,
            np.where((seen <= pages.window.last)[:, None], embeddings.vectors, 0).astype(np.float32),
            embeddings.has_image & (seen <= pages.window.last),
            encoder=metadata.encoder,
            item_ids_sha256=metadata.item_ids_sha256,
            pictures_sha256=metadata.pictures_sha256,
            whitening=metadata.whitening,
        )
        clusters = cluster(known, work / f"{name}_clusters", replace=made[0] if made else None)
        made.append(cluster(embeddings, work / name, like=clusters))
    return made[0], made[1]


def _first_ranker(pages: Pages, clusters: Clusters, directory: Path, seed: int, epochs: int) -> RankerRun:
    """Trains on the first pages, and writes what a warm start reads."""
    dataset = pages.dataset
    keras.utils.set_random_seed(seed)
    adapted = adapt_to_pages(pages, _RANKER, pictures=clusters, allow_window_overlap=True)
    ranker = Ranker(adapted.config, adapted.features.sizes, adapted.image_feature, pages.negative_rate)
    ranker.fill(adapted.features)
    _fit(ranker, pages, seed, epochs)
    metadata = RankerMetadata(
        image_feature=adapted.image_feature,
        seed=seed,
        dataset_digest=dataset.manifest.digest(),
        item_ids_sha256=dataset.manifest.items.ids_sha256,
        user_ids_sha256=dataset.manifest.users.ids_sha256,
        window=pages.window,
        validation={},
        embeddings=None,
        clusters=clusters.metadata,
        notice=dataset.manifest.notice,
    )
    directory.mkdir()
    config = TrainingConfig(ranker=adapted.config)
    tables = {"items": dataset.items(), "users": dataset.users()}
    return RankerRun.save(directory, ranker, metadata, config, **tables, training_counts=adapted.occurrences)


def _go_on(
    run: RankerRun, pages: Pages, clusters: Clusters, replaced: np.ndarray | None, seed: int, epochs: int
) -> Ranker:
    """Trains on the second pages, from a ranker of the first ones."""
    items, users = pages.dataset.items(), pages.dataset.users()
    earlier = WarmStart(run.path)
    known = earlier.known(items, users, None, clusters.metadata)
    keras.utils.set_random_seed(seed)
    adapted = adapt_to_pages(pages, _RANKER, pictures=clusters, allow_window_overlap=True, known=known)
    ranker = Ranker(adapted.config, adapted.features.sizes, adapted.image_feature, pages.negative_rate)
    ranker.fill(adapted.features)
    print(earlier.fill(ranker, items, users, None, clusters.metadata, replaced), flush=True)
    _fit(ranker, pages, seed, epochs)
    return ranker


def _fit(ranker: Ranker, pages: Pages, seed: int, epochs: int) -> None:
    ranker.compile(default_optimizer(TrainingConfig()))
    ranker.fit(pages.batches(64, shuffle=True, seed=seed), epochs=epochs, verbose=0)


def _ageing(embeddings: Embeddings, seen: np.ndarray, old: Clusters, new: Clusters, since: int) -> list[dict[str, Any]]:
    """By the month in which items came: how far they are from the old centers and from the new ones."""
    pictured = embeddings.has_image & (seen < _FAR)
    unit = l2_normalize(np.asarray(embeddings.vectors))
    distances = {
        name: np.square(unit - each.centers[np.maximum(each.ids, 0)]).sum(axis=1)
        for name, each in (("old", old), ("new", new))
    }
    moments = pa.array(np.where(pictured, seen, 0), pa.timestamp("ms", "UTC")).to_numpy(zero_copy_only=False)
    months = moments.astype("datetime64[M]")
    first = datetime.datetime.fromtimestamp(since / 1000, datetime.UTC)
    rows = [("up to then", pictured & (seen <= since))]
    rows += [
        (str(month), pictured & (seen > since) & (months == month))
        for month in np.unique(months[pictured & (seen > since)])
    ]
    return [
        {
            "month": f"{name}, {first:%Y-%m-%d}" if name == "up to then" else name,
            "items": int(chosen.sum()),
            "share_new": float((pictured & (seen > since) & (seen <= seen[chosen].max())).sum() / pictured.sum()),
            **{f"distance_{kind}": float(each[chosen].mean()) for kind, each in distances.items()},
        }
        for name, chosen in rows
        if chosen.any()
    ]


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one seed")
    parser.add_argument("--work-dir", type=Path, default=WORK / "ranker_hm", help="of benchmarks.pictures.published")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--epochs", type=int, default=3, help="passes over either half")
    run_benchmark("replaced_ids", parser, study)
