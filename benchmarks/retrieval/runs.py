"""Recommenders trained and tuned for a comparison, each run kept on disk."""

import argparse
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from beam_pipelines.format.text_file import read_json, write_json
from beam_pipelines.shell.progress import progress_bar
from models.retrieval.interactions import Interactions
from models.retrieval.item_features import ItemFeatures
from models.retrieval.methods import METHODS
from models.retrieval.train import train_retrieval

METRICS = ("recall@20", "recall@50", "ndcg@50", "ndcg@20")
EPOCHS, PATIENCE = 120, 10
_BEGUN = time.monotonic()

Settings = Mapping[str, Sequence[dict[str, Any]]]


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
    """

    def __init__(
        self, options: argparse.Namespace, interactions: Interactions, features: Sequence[ItemFeatures], name: str
    ) -> None:
        self._interactions = interactions
        self._features = features
        self._name = name
        self._work = options.work_dir / ("quick" if options.quick else "full")
        self._epochs = 2 if options.quick else EPOCHS
        self._methods = options.methods
        self._until = _BEGUN + 60 * options.minutes
        self._work.mkdir(parents=True, exist_ok=True)

    def get(self, method: str, setting: dict[str, Any], seed: int) -> dict[str, Any] | None:
        """Metrics, epochs and seconds of a run; `None` if it is missing and not to be trained now."""
        words = "-".join(f"{key}={value}" for key, value in setting.items())
        path = self._work / f"{self._name}-{method}-{words}-{seed}.json"
        if not path.exists():
            if time.monotonic() > self._until or method not in self._methods:
                return None
            write_json(path, self._train(method, setting, seed, path.with_suffix(".run")))
        return read_json(path)

    def _train(self, method: str, setting: dict[str, Any], seed: int, directory: Path) -> dict[str, Any]:
        kind = METHODS[method]
        start = time.perf_counter()
        run = train_retrieval(
            self._interactions,
            directory,
            method=method,
            features=[] if kind.reads_features == "never" else self._features,
            config=kind.Config(**setting, epochs=self._epochs, patience=PATIENCE, checkpoint_minutes=1.0),
            seed=seed,
        )
        seconds = time.perf_counter() - start
        metadata = run.metadata
        found: dict[str, Any] = {
            part: {name: metrics[name] for name in METRICS}
            for part, metrics in (("validation", metadata.validation), ("test", metadata.test or {}))
        }
        found |= {"epochs": len(run.history()["loss"]), "seconds": seconds}
        shutil.rmtree(directory)
        keras.backend.clear_session()
        return found


def compare_tuned(runs: Runs, settings: Settings, seeds: int, *, quick: bool = False) -> dict[str, Any]:
    """Tunes each method on the validation interactions of the first seed, and trains its best setting on the others.

    Args:
        runs: where runs come from.
        settings: of each method; as many for each. The first one is trained first for all methods.
        seeds: how many.
        quick: the first setting and seed alone.

    Returns:
        By method: the `setting` chosen, number of `seeds`, means of the test metrics with `_deviation`, of `epochs` and
        of `seconds`, and `tuning`: settings with their recall@20 on validation.
    """
    tuned: dict[str, list[tuple[dict, dict]]] = {method: [] for method in settings}
    for number in range(1 if quick else max(map(len, settings.values()))):
        for method in progress_bar(settings, desc=f"setting {number + 1}"):
            found = runs.get(method, settings[method][number], 0)
            if found is not None:
                tuned[method].append((settings[method][number], found))
    chosen = {
        method: max(pairs, key=lambda pair: pair[1]["validation"]["recall@20"])
        for method, pairs in tuned.items()
        if pairs
    }
    trained = {method: [run] for method, (_, run) in chosen.items()}
    for seed in range(1, 1 if quick else seeds):
        for method in progress_bar(chosen, desc=f"seed {seed}"):
            found = runs.get(method, chosen[method][0], seed)
            if found is not None:
                trained[method].append(found)
    return {
        method: _summary(trained[method])
        | {
            "setting": chosen[method][0],
            "tuning": [
                {"setting": setting, "recall@20": run["validation"]["recall@20"]} for setting, run in tuned[method]
            ],
        }
        for method in chosen
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
