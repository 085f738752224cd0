"""The paper's Table 10 as it was made: its own ranker with each of its image features, beside ours.

    python -m benchmarks.pictures.paper_table_10 [--source DIR] [--work-dir DIR] [--sample-dir DIR] [--seeds N]

Two shops: H&M, on the datasets and test pages of `benchmarks.pictures.published`, where the unclicked candidates are
sampled; and the shipped sample, whose clicks are simulated, with 300 users and 3,000 pages. In both, pictures are
embedded by published weights and whitened, and clusters are learned of these.

`paper` is the preset `paper_ctr`: the paper's network with `vector`, `simscore`, and an ID that is embedded and nothing
else, of clusters (`cluster_id`) or hash values (`hash_id`, the paper's rejected variant, of as many IDs). `ours` is, on
H&M, what `benchmarks.pictures.published` measures, which reads neither item IDs nor titles, and on the sample the
defaults, where `cluster_id` also compares clusters, and the cosines of their centers, with those of the history. The
paper's rankers read the newest 50 clicks and payments and learn for 4 epochs at most, all alike.

GAUC is the mean AUC of pages; `unseen` counts only the candidates that are on no training page. Intervals are paired,
95 %, by a bootstrap over users with seeds averaged; gains are over `none` of the same ranker. Every ranker, and its
scores, is kept in the work directories, so that a run goes on where it was stopped; code is no part of their names:
remove them after changing it. `--quick` takes one seed and one epoch.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError
from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module, set_options
from benchmarks.encoder.chain import build_dataset
from benchmarks.hm.runs import TEST
from benchmarks.pictures import ideas
from benchmarks.pictures.hm import Aucs, Measurement, cluster, figures_of, open_draws, read_pages, whiten
from benchmarks.pictures.published import embed
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import GROUPS, page_batches
from models.evaluation.scored_pages import score_pages
from models.ranker.run import RankerRun

PAPER = {
    "none": ("none", "clusters"),
    "vector": ("vector", "clusters"),
    "simscore": ("simscore", "clusters"),
    "cluster_id": ("cluster_id", "clusters"),
    "hash_id": ("cluster_id", "hash_ids"),
}
"""By name of the arm: the image feature, and the clusters that it reads."""

OURS = ("none", "simscore", "cluster_id")
SETTINGS = (
    "monitor=auc",
    "batch_size=32",
    "learning_rate=0.001",
    "ranker.lengths.click=50",
    "ranker.lengths.pay=50",
    "epochs=4",
)
"""Of the paper's rankers in both shops. The first three are those of ours on H&M, where the GAUC of few validation
pages jumps; the others cut the cost of self-attention, which grows with the square of the length, for all alike."""


class Shop(NamedTuple):
    """What rankers are trained and measured on.

    Attributes:
        draws: datasets that differ in what is sampled of the test pages, the one to learn on first.
        inputs: holds `embeddings`, `clusters` and `hash_ids`.
        work_dir: keeps the rankers.
    """

    draws: Sequence[Dataset]
    inputs: Path
    work_dir: Path


def hash_ids(inputs: Path) -> None:
    """Makes as many hash IDs as there are clusters, unless that is done."""
    if not (inputs / "hash_ids").exists():
        count = Clusters.load(inputs / "clusters").metadata.num_clusters
        written = ("--embeddings", inputs / "embeddings", "--output", inputs / "hash_ids")
        options = ("--backend", "hash", "--num-clusters", str(count))
        run_module("models.cluster", *written, *options, log=inputs / "hash_ids.log")


def open_shop(draws: Sequence[Dataset], work_dir: Path) -> Shop:
    """Embeds the pictures and makes their IDs, unless that is done."""
    print(f"notice: {draws[0].manifest.notice}", flush=True)
    inputs = whiten(draws[0], embed(draws[0], work_dir))
    cluster(inputs)
    hash_ids(inputs)
    return Shop(draws, inputs, work_dir)


def train(shop: Shop, name: str, arm: str, seed: int, overrides: Sequence[str]) -> Path:
    """Trains a ranker, the paper's or ours, unless the work directory has it; returns its run directory."""
    path = shop.work_dir / "paper_table_10" / f"{name}-{arm}-{seed}"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        feature, clusters = PAPER[arm]
        settings = ("--config", "paper_ctr", *set_options(SETTINGS))
        run_module(
            "models.train_ctr",
            *("--data", shop.draws[0].path, "--output", path, "--image-feature", feature, "--seed", str(seed)),
            *("--embeddings", shop.inputs / "embeddings", "--clusters", shop.inputs / clusters),
            *(settings if name == "paper" else ()),
            *set_options(overrides),
            log=path.with_name(f"{path.name}.log"),
        )
    return path


def scores_of(run: Path, draws: Sequence[Dataset], file: Path) -> list[np.ndarray]:
    """The scores of the test candidates of each draw, unless the file has them."""
    if not file.exists():
        ranker, scores = RankerRun(run).ranker(), []
        for draw in draws:
            batches = page_batches(draw, TEST, ranker.config.lengths, batch_size=128, to_longest=GROUPS)
            scored = score_pages(ranker, batches)
            expected = read_pages(draw, TEST)
            if not np.array_equal(scored.item, expected.item[expected.valid]):
                raise InputError(f"the scores of {run} are of other candidates, or in another order")
            scores.append(scored.ctr)
        np.savez(file, *scores)
    with np.load(file) as found:
        return [found[name] for name in found.files]


def measure(shop: Shop, runs: dict[str, list[Path]]) -> dict:
    """The figures of rankers, by name those of each seed."""
    tests = [read_pages(draw, TEST) for draw in shop.draws]
    unseen = RankerRun(next(iter(runs.values()))[0]).training_counts() == 0
    measurement = Measurement(tests, [unseen[test.item[test.valid]] for test in tests])
    rows: dict[str, list[Aucs]] = {}
    for name, of_seeds in runs.items():
        files = [shop.work_dir / "paper_table_10" / f"{name.replace(', ', '-')}-{n}.npz" for n in range(len(of_seeds))]
        rows[name] = [
            measurement.aucs(scores_of(run, shop.draws, file)) for run, file in zip(of_seeds, files, strict=True)
        ]
    pages = {part: len(user) for part, user in measurement.user.items()}
    return {"pages": pages, **figures_of(rows, measurement, ["none, paper", "none, ours"])}


def study(args: argparse.Namespace) -> dict:
    """Measures everything, prints the tables and returns the figures."""
    overrides: list[str] = []
    if args.quick:
        args.seeds, overrides = 1, ["epochs=1"]
    draws, _ = open_draws(args.source, args.work_dir)
    shops = {
        "hm": open_shop(draws, args.work_dir),
        "sample": open_shop([Dataset(build_dataset(args.sample_dir))], args.sample_dir),
    }
    result: dict = {"seeds": args.seeds}
    for name, shop in shops.items():
        runs = {
            f"{arm}, paper": [train(shop, "paper", arm, seed, overrides) for seed in range(args.seeds)] for arm in PAPER
        }
        for arm in OURS:
            runs[f"{arm}, ours"] = [
                ideas.train(shop.draws[0], shop.work_dir, arm, seed, shop.inputs, 0.1, overrides)
                if name == "hm"
                else train(shop, "ours", arm, seed, overrides)
                for seed in range(args.seeds)
            ]
        result[name] = {"notice": shop.draws[0].manifest.notice, **measure(shop, runs)}
    return result


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one seed, one epoch")
    add = parser.add_argument
    add("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M competition's files")
    add("--work-dir", type=Path, default=WORK / "ranker_hm", help="what is there is reused")
    add("--sample-dir", type=Path, default=WORK / "paper_table_10_sample", help="of the sample, likewise")
    add("--seeds", type=int, default=3, help="of the rankers")
    run_benchmark("paper_table_10", parser, study)


if __name__ == "__main__":
    main()
