"""What published ImageNet weights, never trained here, add to the ranker on H&M.

    python -m benchmarks.pictures.published [--source DIR] [--work-dir DIR] [--seeds N] [--jobs N] [--quick]

The rankers, datasets and test pages are those of `benchmarks.pictures.hm` that read the whole catalogue: see there for
what is sampled. The pictures are embedded by the preset `efficientnet_lite0` as it is published (all stages beside each
other), whitened to 64 components on items of the pre-training window and clustered: by `models.pretrain --method none`,
`models.embed`, `models.whiten` and `models.cluster`, as a user would. `none` are rankers without pictures. Seeds are
those of the rankers; the embeddings have none. Trained rankers are kept in the work directory.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module
from benchmarks.hm.runs import TEST
from benchmarks.pictures.hm import (
    ATTRIBUTES,
    CONFIG,
    cluster,
    figures_of,
    item_features,
    measure_rankers,
    open_draws,
    read_pages,
    train_ranker,
    whiten,
)
from models.data.dataset import Dataset

FEATURES = ("none", "simscore", "cluster_id")


def embed(dataset: Dataset, work_dir: Path) -> Path:
    """Embeds the pictures as published, unless that is done; returns the directory that holds the embeddings."""
    path = work_dir / "runs" / "published"
    if not (path / "embeddings").exists():
        path.mkdir(parents=True, exist_ok=True)
        data, encoder = ("--data", dataset.path), path / "encoder"
        run_module(
            "models.pretrain", *data, "--method", "none", "--output", encoder, "--overwrite", log=path / "none.log"
        )
        written = ("--encoder", encoder, "--output", path / "embeddings")
        run_module("models.embed", *data, *written, log=path / "embed.log")
    return path


def study(args: argparse.Namespace) -> dict:
    """Measures everything, prints the tables and returns the figures."""
    if args.quick:
        args.seeds, args.set = 1, [*args.set, "epochs=1"]
    draws, directories = open_draws(args.source, args.work_dir)
    dataset = draws[0]
    print(f"notice: {dataset.manifest.notice}", flush=True)
    inputs = whiten(dataset, embed(dataset, args.work_dir))
    cluster(inputs)
    overrides = [*CONFIG, item_features("category", *ATTRIBUTES), *args.set]
    with ThreadPoolExecutor(args.jobs) as pool:
        started = {
            (feature, seed): pool.submit(train_ranker, dataset, args.work_dir, feature, seed, inputs, overrides)
            for seed in range(args.seeds)
            for feature in FEATURES
        }
        runs = {feature: [started[feature, seed].result() for seed in range(args.seeds)] for feature in FEATURES}
    tests = [read_pages(draw, TEST) for draw in draws]
    rows, measurement = measure_rankers(draws, tests, directories, runs, args.jobs)
    return {
        "notice": dataset.manifest.notice,
        "seeds": args.seeds,
        "pages": {part: len(user) for part, user in measurement.user.items()},
        **figures_of(rows, measurement, ["none"]),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one seed, one epoch")
    add = parser.add_argument
    add("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M competition's files")
    add("--work-dir", type=Path, default=WORK / "ranker_hm", help="what is there is reused")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to models.train_ctr")
    add("--seeds", type=int, default=3, help="of the rankers")
    add("--jobs", type=int, default=1, help="trainings at a time")
    run_benchmark("pictures_published", parser, study)


if __name__ == "__main__":
    main()
