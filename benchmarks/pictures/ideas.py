"""What each further way to read pictures adds to the ranker on H&M, one at a time.

    python -m benchmarks.pictures.ideas [--source DIR] [--work-dir DIR] [--arms NAME ...] [--test NAME ...] [--quick]

The datasets, pages and pictures are those of `benchmarks.pictures.published`: rankers read the whole catalogue, and
pictures embedded by published weights and whitened; semantic IDs are of three levels of 64 clusters. Each idea is tried
by itself, or beside `simscore`, on validation pages: rankers learn on the earliest 70 % of the training pages and are
measured on the others, with two draws of what is sampled. What is named by `--test` is then trained as
`benchmarks.pictures.published` trains and measured on the test pages. Every ranker, and what each arm has measured, is
kept in the work directory under `ideas`, so that a run goes on where it was stopped; code is no part of their names:
remove them after changing it. GAUC is the mean AUC of pages; `unseen` counts only the candidates that are on no page of
those to learn on. Intervals are paired, 95 %, by a bootstrap over users with seeds averaged.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError
from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module, set_options
from benchmarks.hm.runs import TEST
from benchmarks.pictures.hm import (
    ATTRIBUTES,
    CONFIG,
    PARTS,
    TRAIN,
    Aucs,
    Measurement,
    cluster,
    figures_of,
    item_features,
    measure_rankers,
    open_draws,
    read_pages,
    whiten,
)
from benchmarks.pictures.published import embed
from models.data.dataset import Dataset
from models.data.pages import GROUPS, page_batches
from models.evaluation.scored_pages import score_pages
from models.ranker.run import RankerRun

VALIDATION_SHARE = 0.3
VALIDATION_DRAWS = 2
REFERENCES = ("none", "simscore")
LEVELS, CLUSTERS_PER_LEVEL = 3, 64


class Arm(NamedTuple):
    """Rankers that differ in one idea from those of `simscore`.

    Attributes:
        features: how pictures enter.
        overrides: `KEY=VALUE` of the configuration.
    """

    features: str
    overrides: tuple[str, ...] = ()


ARMS = {
    "none": Arm("none"),
    "simscore": Arm("simscore"),
    "cluster_id": Arm("cluster_id"),
    "recency": Arm("simscore", ("ranker.match_recency=true",)),
    "simtier": Arm("simscore,simtier"),
    "simscore,cluster_id": Arm("simscore,cluster_id"),
    "semantic_id": Arm("semantic_id"),
    "simscore,semantic_id": Arm("simscore,semantic_id"),
    "make": Arm("make"),
    "simscore,make": Arm("simscore,make"),
    "semantic_id, embedded": Arm("semantic_id", ("ranker.embed_clusters=true",)),
    "cluster_id, embedded": Arm("cluster_id", ("ranker.embed_clusters=true",)),
    "similarity_aware": Arm("simscore", ("ranker.attention.similarity_aware=true",)),
    "similarity_buckets": Arm("simscore", ("ranker.attention.similarity_buckets=35",)),
}


def train(
    dataset: Dataset, work_dir: Path, name: str, seed: int, inputs: Path, share: float, overrides: Sequence[str]
) -> Path:
    """Trains a ranker of an arm, unless the work directory has it; returns its run directory."""
    path = work_dir / "ideas" / f"{name}-{seed}-{share:g}"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        arm = ARMS[name]
        settings = (*CONFIG, item_features("category", *ATTRIBUTES), f"validation_share={share}", *arm.overrides)
        run_module(
            "models.train_ctr",
            *("--data", dataset.path, "--output", path, "--image-feature", arm.features, "--seed", str(seed)),
            *("--embeddings", inputs / "embeddings"),
            *("--clusters", inputs / ("semantic_ids" if "semantic_id" in arm.features else "clusters")),
            *set_options((*settings, *overrides)),
            log=path.with_name(f"{path.name}.log"),
        )
    return path


def cluster_in_levels(path: Path) -> None:
    """Makes semantic IDs of the embeddings of a directory, unless that is done."""
    if not (path / "semantic_ids").exists():
        written = ("--embeddings", path / "embeddings", "--output", path / "semantic_ids")
        levels = ("--levels", str(LEVELS), "--num-clusters", str(CLUSTERS_PER_LEVEL))
        run_module("models.cluster", *written, *levels, log=path / "semantic_ids.log")


def validate(args: argparse.Namespace, draws: Sequence[Dataset], inputs: Path) -> dict:
    """Trains and measures on validation pages."""
    earlier, later = draws[0].pages(TRAIN).split(1 - VALIDATION_SHARE)
    draws = draws[:VALIDATION_DRAWS]
    pages = [read_pages(draw, TRAIN, later.window) for draw in draws]
    learned = read_pages(draws[0], TRAIN, earlier.window)
    seen = np.unique(np.concatenate([learned.item.ravel(), *(steps.ravel() for steps in learned.histories)]))
    measurement = Measurement(pages, [~np.isin(each.item[each.valid], seen) for each in pages])
    rows: dict[str, list[Aucs]] = {}
    for name in args.arms:
        file = args.work_dir / "ideas" / f"{name}.npz"
        if not file.exists():
            of_seeds = []
            for seed in range(args.seeds):
                run = train(draws[0], args.work_dir, name, seed, inputs, VALIDATION_SHARE, args.set)
                ranker, scores = RankerRun(run).ranker(), []
                for draw, expected in zip(draws, pages, strict=True):
                    lengths = ranker.config.lengths
                    batches = page_batches(draw, TRAIN, lengths, batch_size=128, window=later.window, to_longest=GROUPS)
                    scored = score_pages(ranker, batches)
                    if not np.array_equal(scored.item, expected.item[expected.valid]):
                        raise InputError(f"the scores of {run} are of other candidates, or in another order")
                    scores.append(scored.ctr)
                of_seeds.append(measurement.aucs(scores))
                print(f"{name}, seed {seed}: GAUC {of_seeds[-1]['all'].mean():.4f}", flush=True)
            np.savez(file, **{part: np.stack([aucs[part] for aucs in of_seeds]) for part in PARTS})
        with np.load(file) as found:
            rows[name] = [{part: found[part][seed] for part in PARTS} for seed in range(len(found[PARTS[0]]))]
    pages_of_parts = {part: len(user) for part, user in measurement.user.items()}
    return {"pages": pages_of_parts, **figures_of(rows, measurement, [name for name in REFERENCES if name in rows])}


def study(args: argparse.Namespace) -> dict:
    """Measures everything, prints the tables and returns the figures."""
    if args.quick:
        args.seeds, args.set = 1, [*args.set, "epochs=1"]
    draws, directories = open_draws(args.source, args.work_dir)
    dataset = draws[0]
    print(f"notice: {dataset.manifest.notice}", flush=True)
    inputs = whiten(dataset, embed(dataset, args.work_dir))
    cluster(inputs)
    cluster_in_levels(inputs)
    result = {
        "notice": dataset.manifest.notice,
        "seeds": args.seeds,
        "validation": validate(args, draws, inputs),
    }
    if args.test:
        share = 0.1  # that of the rankers which `benchmarks.pictures.published` measures
        runs = {
            name: [train(dataset, args.work_dir, name, seed, inputs, share, args.set) for seed in range(args.seeds)]
            for name in args.test
        }
        tests = [read_pages(draw, TEST) for draw in draws]
        rows, measurement = measure_rankers(draws, tests, directories, runs, jobs=1)
        result["test"] = {
            "pages": {part: len(user) for part, user in measurement.user.items()},
            **figures_of(rows, measurement, [name for name in REFERENCES if name in runs]),
        }
    return result


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one seed, one epoch")
    add = parser.add_argument
    add("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M competition's files")
    add("--work-dir", type=Path, default=WORK / "ranker_hm", help="what is there is reused")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to models.train_ctr")
    add("--arms", nargs="+", choices=ARMS, default=[*ARMS], metavar="NAME", help=", ".join(ARMS))
    add("--test", nargs="*", choices=ARMS, default=[], metavar="NAME", help="arms that the test pages measure")
    add("--seeds", type=int, default=3, help="of the rankers")
    run_benchmark("pictures_ideas", parser, study)


if __name__ == "__main__":
    main()
