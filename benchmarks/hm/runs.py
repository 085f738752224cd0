"""The H&M dataset and the encoder runs that the studies of COURIER share; whatever is there already is reused.

Everything lies under one work directory: `logs`, `dataset`, and `runs/KEY` per configuration (its seed included). A
study that was interrupted goes on with the runs it lacks. Code is not part of a key: remove `runs` after changing it.
"""

import argparse
import hashlib
import itertools
import json
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.outputs import whole_file
from benchmarks.base import WORK, benchmark_parser, make_once, run_benchmark, run_module, set_options
from models.config import load_config
from models.data.dataset import Dataset
from models.embeddings.embeddings import Embeddings
from models.pretraining.config import PretrainConfig

VALIDATION, TEST = "train", "test"
"""The splits after the pre-training window, by the dataset's names: one to tune on, one to report."""

_SPLIT_TIMES = "2019-12-01,2020-01-11"
_VIEW = ("--pretraining-candidates", "10", "--pretraining-clicks", "10", "--pretraining-negatives", "1")


class Run(NamedTuple):
    """A trained encoder.

    Attributes:
        path: holds `encoder` and `embeddings`.
        embeddings: float32 `(items, dim)` by item row.
        seconds: that `models.pretrain` took, all of it; only the rest, where an interrupted run went on.
    """

    path: Path
    embeddings: np.ndarray
    seconds: float


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of all studies.

    Args:
        description: the docstring of the study's module.
    """
    parser = benchmark_parser(description, quick="one seed, one epoch")
    add = parser.add_argument
    add("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M competition's files")
    add("--work-dir", type=Path, default=WORK / "courier", help="what is there is reused")
    add("--config", default="courier_cpu", help="passed on to models.pretrain")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to models.pretrain")
    add("--seeds", type=int, default=3)
    add("--jobs", type=int, default=1, help="runs at a time; the cores are divided among them")
    return parser


def run_study(name: str, study: Callable[[argparse.Namespace], dict], parser: argparse.ArgumentParser) -> None:
    """Runs a study; see `run_benchmark`.

    Args:
        name: of the benchmark in the catalogue.
        study: from the options to the figures.
        parser: of `study_parser`, with the study's own options.
    """

    def measure(args: argparse.Namespace) -> dict:
        if args.quick:
            args.seeds, args.set = 1, [*args.set, "epochs=1"]
        return study(args)

    run_benchmark(name, parser, measure)


def open_dataset(source: Path, work_dir: Path, split_times: str = _SPLIT_TIMES, sampling_seed: int = 0) -> Dataset:
    """The dataset of the work directory, built from the competition's files if it is not there.

    Args:
        source: the competition's files.
        work_dir: where the dataset is, or will be.
        split_times: `--split-by-time` of `beam_pipelines.build`.
        sampling_seed: of the sampled articles.
    """
    logs, path = work_dir / "logs", work_dir / "dataset"

    def build() -> None:
        if not logs.exists():
            options = ("--source", source, "--output", logs, "--seed", str(sampling_seed))
            run_module("beam_pipelines.datasets.hm", *options, log=work_dir / "logs.log")
        split = ("--split-by-time", split_times)
        run_module(
            "beam_pipelines.build", "--logs", logs, "--output", path, *split, *_VIEW, log=work_dir / "dataset.log"
        )

    dataset = Dataset(make_once(path, build))
    window = dataset.pretraining_view().window
    for split in (VALIDATION, TEST):
        if dataset.split(split).window.first <= window.last:
            raise InputError(f"{path}: split `{split}` begins inside the pre-training window; remove it")
    return dataset


def train_runs(
    dataset: Dataset, work_dir: Path, config: str, variants: Mapping[str, Sequence[str]], seeds: int, jobs: int
) -> Iterator[tuple[str, int, Run]]:
    """Trains and embeds every variant with every seed.

    Args:
        dataset: the page dataset.
        work_dir: keeps the runs.
        config: of `models.pretrain`, like the overrides in `variants`.
        variants: name to `KEY=VALUE` overrides.
        seeds: 0, 1, ... each.
        jobs: runs at a time.

    Yields:
        Variant, seed and run, as they are done.
    """
    if min(seeds, jobs) < 1:
        raise InputError(f"`seeds` and `jobs` must be at least 1. Received: {seeds} and {jobs}")
    planned = {}
    for seed, (name, changes) in itertools.product(range(seeds), variants.items()):
        overrides = [*changes, f"seed={seed}"]
        text = load_config(PretrainConfig, config, overrides).to_yaml() + dataset.manifest.digest()
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        planned[name, seed] = work_dir / "runs" / key, overrides
    # A child process inherits the cores of the thread that starts it, and sizes all its thread pools by them.
    cores, shares = sorted(os.sched_getaffinity(0)), queue.Queue()
    for job in range(jobs):
        shares.put({cores[n % len(cores)] for n in range(job, max(len(cores), jobs), jobs)})
    pool = ThreadPoolExecutor(jobs, initializer=lambda: os.sched_setaffinity(0, shares.get()))
    with pool:
        futures = {
            pool.submit(_train, dataset, config, overrides, directory, f"{name}, seed {seed}"): (name, seed)
            for (name, seed), (directory, overrides) in planned.items()
        }
        try:
            for done, future in enumerate(as_completed(futures), 1):
                name, seed = futures[future]
                run = future.result()
                print(f"{done}/{len(futures)} {name}, seed {seed}: trained in {run.seconds:.0f} s", flush=True)
                yield name, seed, run
        finally:
            pool.shutdown(cancel_futures=True)


def _train(dataset: Dataset, config: str, overrides: Sequence[str], directory: Path, title: str) -> Run:
    report = directory / "run.json"
    if not report.exists():
        directory.mkdir(parents=True, exist_ok=True)
        encoder, embeddings = directory / "encoder", directory / "embeddings"
        options = set_options(overrides)
        log = directory / "pretrain.log"
        print(f"training {title} (see {log})", flush=True)
        start = time.monotonic()
        data = ("--data", dataset.path)
        run_module("models.pretrain", *data, "--output", encoder, "--overwrite", "--config", config, *options, log=log)
        seconds = time.monotonic() - start
        written = ("--output", embeddings, "--overwrite")
        run_module("models.embed", *data, "--encoder", encoder, *written, log=directory / "embed.log")
        with whole_file(report) as file:
            file.write_text(json.dumps({"overrides": list(overrides), "seconds": seconds}) + "\n")
    embeddings = Embeddings.load(directory / "embeddings").vectors
    return Run(directory, np.asarray(embeddings), json.loads(report.read_text())["seconds"])
