"""Recommenders trained and tuned for a comparison, each run kept on disk."""

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from beam_pipelines.format.text_file import read_json, write_json
from beam_pipelines.shell.progress import progress_bar
from models.data.dataset import Dataset
from models.retrieval.interactions import Interactions
from models.retrieval.item_features import ItemFeatures
from models.retrieval.methods import METHODS
from models.retrieval.run import RetrievalRun
from models.retrieval.train import train_retrieval

METRICS = ("recall@20", "recall@50", "ndcg@50", "ndcg@20")
TRAINING = {"epochs": 120, "patience": 10}
_BEGUN = time.monotonic()

Settings = Mapping[str, Sequence[dict[str, Any]]]
Measure = Callable[[RetrievalRun], dict[str, np.ndarray]]


def add_run_options(parser: argparse.ArgumentParser, work_dir: Path, seeds: int) -> None:
    """Adds what all comparisons of recommenders take."""
    parser.add_argument("--work-dir", type=Path, default=work_dir, help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=seeds, help="of the chosen setting of each method")
    parser.add_argument("--minutes", type=float, default=10_000, help="after which no run begins")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="that are trained now")


class Runs:
    """Trains what is missing as long as there is time.

    Args:
        options: of `add_run_options` and `quick`.
        interactions: the data.
        features: for methods that read them.
        name: of the data, in file names.
        dataset: the page dataset that the interactions come from, if they do.
        training: keys of the configuration that are the same for all methods, unless a setting has them.
        measure: what else is kept of each run: arrays by name.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        interactions: Interactions,
        features: Sequence[ItemFeatures],
        name: str,
        *,
        dataset: Dataset | None = None,
        training: Mapping[str, Any] = TRAINING,
        measure: Measure | None = None,
    ) -> None:
        self._interactions = interactions
        self._features = features
        self._name = name
        self._dataset = dataset
        self._training = {**training, **({"epochs": 2} if options.quick else {})}
        self._measure = measure
        self._work = options.work_dir / ("quick" if options.quick else "full")
        self._methods = options.methods
        self._until = _BEGUN + 60 * options.minutes
        self._work.mkdir(parents=True, exist_ok=True)

    def get(self, method: str, setting: dict[str, Any], seed: int) -> dict[str, Any] | None:
        """Metrics, epochs and seconds of a run; `None` if it is missing and not to be trained now."""
        path = self._path(method, setting, seed)
        if not path.exists():
            if time.monotonic() > self._until or method not in self._methods:
                return None
            write_json(path, self._train(method, setting, seed, path))
        return read_json(path)

    def arrays(self, method: str, setting: dict[str, Any], seed: int) -> dict[str, np.ndarray] | None:
        """What `measure` said of a run; `None` if it is missing."""
        path = self._path(method, setting, seed)
        if not path.exists():
            return None
        with np.load(path.with_suffix(".npz")) as arrays:
            return dict(arrays)

    def _path(self, method: str, setting: dict[str, Any], seed: int) -> Path:
        words = "-".join(f"{key}={value}" for key, value in setting.items())
        return self._work / f"{self._name}-{method}-{words}-{seed}.json"

    def _train(self, method: str, setting: dict[str, Any], seed: int, path: Path) -> dict[str, Any]:
        kind = METHODS[method]
        start = time.perf_counter()
        run = train_retrieval(
            self._interactions,
            path.with_suffix(".run"),
            method=method,
            features=[] if kind.reads_features == "never" else self._features,
            config=kind.Config.model_validate({**self._training, "checkpoint_minutes": 1.0, **setting}),
            dataset=self._dataset,
            seed=seed,
        )
        seconds = time.perf_counter() - start
        metadata = run.metadata
        found: dict[str, Any] = {
            part: {name: metrics[name] for name in METRICS}
            for part, metrics in (("validation", metadata.validation), ("test", metadata.test or {}))
        }
        found |= {"epochs": len(run.history()["loss"]), "seconds": seconds}
        if self._measure is not None:
            np.savez_compressed(path.with_suffix(".npz"), **self._measure(run))
        shutil.rmtree(path.with_suffix(".run"))
        keras.backend.clear_session()
        return found


class Arm(NamedTuple):
    """A method on some data, to be tuned.

    Attributes:
        runs: where its runs come from.
        method: its name.
        settings: that are tried.
    """

    runs: Runs
    method: str
    settings: Sequence[dict[str, Any]]


def compare_tuned(arms: Mapping[str, Arm], seeds: int, *, quick: bool = False) -> dict[str, Any]:
    """Tunes each arm on the validation interactions of the first seed, and trains its best setting on the others.

    Args:
        arms: by name. The first setting is trained first for all.
        seeds: how many.
        quick: the first setting and seed alone.

    Returns:
        By arm: the `setting` chosen, number of `seeds`, means of the test metrics with `_deviation`, of `epochs` and
        of `seconds`, and `tuning`: settings with their recall@20 on validation.
    """
    tuned: dict[str, list[tuple[dict, dict]]] = {name: [] for name in arms}
    for number in range(1 if quick else max(len(arm.settings) for arm in arms.values())):
        for name, arm in progress_bar(arms.items(), desc=f"setting {number + 1}"):
            found = arm.runs.get(arm.method, arm.settings[number], 0)
            if found is not None:
                tuned[name].append((arm.settings[number], found))
    chosen = {
        name: max(pairs, key=lambda pair: pair[1]["validation"]["recall@20"]) for name, pairs in tuned.items() if pairs
    }
    trained = {name: [run] for name, (_, run) in chosen.items()}
    for seed in range(1, 1 if quick else seeds):
        for name, (setting, _) in progress_bar(chosen.items(), desc=f"seed {seed}"):
            found = arms[name].runs.get(arms[name].method, setting, seed)
            if found is not None:
                trained[name].append(found)
    return {
        name: _summary(trained[name])
        | {
            "setting": chosen[name][0],
            "tuning": [
                {"setting": setting, "recall@20": run["validation"]["recall@20"]} for setting, run in tuned[name]
            ],
        }
        for name in chosen
    }


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {"seeds": len(runs)}
    for name in METRICS:
        values = [run["test"][name] for run in runs]
        means[name] = statistics.mean(values)
        means[f"{name}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    for name in ("epochs", "seconds"):
        means[name] = statistics.mean(run[name] for run in runs)
    return means
