"""Cluster IDs on H&M when items go on coming: old ones, new ones from zero, and new ones in the place of old ones.

A ranker learns on the first half of the train pages with IDs of what was there by then, and is warm-started on the
second half with each kind of IDs; the test pages come after both. How quality falls as new items pile up is seen on
test pages that show few of them and many. It reads what `benchmarks.pictures.published` has made, and keeps the rankers
in artifacts/benchmarks/replaced_ids.
"""

import argparse
import datetime
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.outputs import whole_directory
from benchmarks.base import WORK, benchmark_parser, run_benchmark
from models.clustering.cluster import cluster
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import GROUPS, Pages, parse_pages
from models.embeddings.embeddings import WHITENING_FILE, Embeddings
from models.embeddings.vectors import l2_normalize
from models.evaluation.scored_pages import score_pages
from models.metrics.auc import group_auc
from models.metrics.bootstrap import bootstrap_counts, interval, resampled_sums
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
_EPOCHS = 3
"""Passes over either half."""
_FAR = np.iinfo(np.int64).max


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures."""
    seeds = range(1 if options.quick else options.seeds)
    work = WORK / ("replaced_ids_quick" if options.quick else "replaced_ids")
    work.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    dataset = Dataset(options.work_dir / "dataset")
    embeddings = Embeddings.load(options.work_dir / "runs/published-whitened/embeddings")
    first, second = dataset.pages("train").split(0.5)
    seen = _first_seen(dataset)
    old, new = _clusters(embeddings, seen, first, second, work)
    runs: dict[str, list[RankerRun]] = {name: [] for name in (*ARMS, "not trained further")}
    for seed in seeds:
        base = _learn(first, old, work / f"first-{seed}", seed)
        runs["not trained further"].append(base)
        for number, (name, clusters, replaced) in enumerate(
            zip(ARMS, (old, new, new), (None, None, new.replaced), strict=True)
        ):
            if time.monotonic() > ends:
                raise InputError(f"seed {seed} is not done; the same command goes on")
            run = _learn(second, clusters, work / f"arm-{number}-{seed}", seed, base, replaced)
            runs[name].append(run)
    everywhere, parts = _compare(runs, dataset.pages("test"), (seen > first.window.last) & (old.ids >= 0))
    matched = new.metadata.replaced
    assert matched is not None
    return {
        "seeds": len(seeds),
        "epochs": _EPOCHS,
        "pages": [len(first), len(second), len(dataset.pages("test"))],
        "clusters": old.metadata.num_clusters,
        "matched": matched.matched,
        "pictures": int((new.ids >= 0).sum()),
        "pictures_in_place": matched.pictures,
        "pictures_clustered": int((embeddings.has_image & (seen <= second.window.last)).sum()),
        "gauc": everywhere["gauc"],
        "less_old": everywhere["less_old"],
        "by_month": _ageing(embeddings, seen, old, new, first.window.last),
        "by_share": parts,
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
    made: list[Clusters] = []
    for name, pages in (("old", first), ("new", second)):
        if not (work / name).exists():
            metadata = embeddings.metadata
            with whole_directory(work / f"{name}_embeddings", overwrite=True) as directory:
                shutil.copyfile(embeddings.file(WHITENING_FILE), directory / WHITENING_FILE)
                Embeddings.save(
                    directory,
                    np.where((seen <= pages.window.last)[:, None], embeddings.vectors, 0).astype(np.float32),
                    embeddings.has_image & (seen <= pages.window.last),
                    encoder=metadata.encoder,
                    item_ids_sha256=metadata.item_ids_sha256,
                    pictures_sha256=metadata.pictures_sha256,
                    whitening=metadata.whitening,
                )
            known = Embeddings.load(work / f"{name}_embeddings")
            replace = made[0] if made else None
            clusters = cluster(known, work / f"{name}_clusters", replace=replace, overwrite=True)
            cluster(embeddings, work / name, like=clusters)
        made.append(Clusters.load(work / name))
    return made[0], made[1]


def _learn(
    pages: Pages,
    clusters: Clusters,
    directory: Path,
    seed: int,
    base: RankerRun | None = None,
    replaced: np.ndarray | None = None,
) -> RankerRun:
    """Trains a ranker on pages, from an earlier one if there is one, and keeps it."""
    if directory.exists():
        return RankerRun(directory)
    print(directory.name, flush=True)
    dataset = pages.dataset
    items, users = dataset.items(), dataset.users()
    earlier = None if base is None else WarmStart(base.path)
    known = None if earlier is None else earlier.known(items, users, None, clusters.metadata)
    keras.utils.set_random_seed(seed)
    adapted = adapt_to_pages(pages, _RANKER, pictures=clusters, allow_window_overlap=True, known=known)
    ranker = Ranker(adapted.config, adapted.features.sizes, adapted.image_feature, pages.negative_rate)
    ranker.fill(adapted.features)
    if earlier is not None:
        print(earlier.fill(ranker, items, users, None, clusters.metadata, replaced), flush=True)
    ranker.compile(default_optimizer(TrainingConfig()))
    ranker.fit(pages.batches(64, shuffle=True, seed=seed), epochs=_EPOCHS, verbose=0)
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
    config = TrainingConfig(ranker=adapted.config)
    with whole_directory(directory) as scratch:
        RankerRun.save(scratch, ranker, metadata, config, items=items, users=users, training_counts=adapted.occurrences)
    return RankerRun(directory)


def _compare(
    runs: dict[str, list[RankerRun]], pages: Pages, new: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """GAUC, and what it is more than with old IDs: on all pages, and by the share of candidates that are `new`.

    Each seed's AUC of a page counts alike. The parts are of about the same number of pages; intervals are over users.
    """
    aucs: dict[str, np.ndarray] = {}
    for name, each in runs.items():
        ranked = []
        for run in each:
            ranker = run.ranker()
            lengths = ranker.config.lengths.model_copy(update={"candidates": pages.dataset.manifest.max_candidates})
            batches = (parse_pages(records, lengths, to_longest=GROUPS) for records in pages.records().batch(128))
            scored = score_pages(ranker, batches)
            ranked.append(group_auc(scored.ctr, scored.clicked, scored.page).auc)
        aucs[name] = np.mean(ranked, axis=0)
    share = np.bincount(scored.page, new[scored.item]) / np.bincount(scored.page)
    first_candidates = np.unique(scored.page, return_index=True)[1]
    users = np.unique(scored.user[first_candidates], return_inverse=True)[1]
    counts = bootstrap_counts(int(users.max()) + 1)

    def of(chosen: np.ndarray) -> dict[str, Any]:
        gains = {name: auc[chosen] - aucs[ARMS[0]][chosen] for name, auc in aucs.items() if name != ARMS[0]}
        sums = resampled_sums(np.stack([np.ones(len(chosen)), *gains.values()]), counts, users[chosen])
        means = sums[1:] / sums[0]
        low, high = interval(means[:, 1:])
        return {
            "pages": len(chosen),
            "share": [float(each(share[chosen])) for each in (np.min, np.mean, np.max)],
            "gauc": {name: float(auc[chosen].mean()) for name, auc in aucs.items()},
            "less_old": {
                name: {"difference": float(means[n, 0]), "low": float(low[n]), "high": float(high[n])}
                for n, name in enumerate(gains)
            },
        }

    has_auc = np.isfinite(aucs[ARMS[0]])
    few, many = np.quantile(share[has_auc], [1 / 3, 2 / 3])
    part = (share > few).astype(int) + (share >= many)  # on many pages, all candidates are new
    chosen = [np.flatnonzero(has_auc & (part == number)) for number in range(3)]
    return of(np.flatnonzero(has_auc)), [of(each) for each in chosen if len(each)]


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
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no training later; the same command goes on")
    run_benchmark("replaced_ids", parser, study)
