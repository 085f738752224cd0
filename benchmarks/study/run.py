"""The study of ways to pre-train: each cell by itself, so that what was interrupted goes on with the cells it lacks.

    python -m benchmarks.study.run [--source DIR] [--work-dir DIR] [--only PATTERN] [--list] [--quick]

What is measured, and what each way gets, is in `benchmarks/study/plan.py`. A cell is a process and a result file,
`benchmarks/results/study/KIND/NAME.json`:

- `tuning`: one try of one way, measured on the train window's pages;
- `encoders`: one way and one seed, with what tuning chose: SimScore on the test pages, labels of neighbours, a probe;
- `rankers`: a ranker that reads an encoder's pictures by one feature, measured on five draws of the test pages;
- `world`, `world_rankers`: encoders and rankers of the simulated world.

Encoders, embeddings and rankers are kept in the work directory. `--only 'rankers/courier-*'` runs cells by their name,
also with `--again` where they are there: so each row can be repeated. `python -m benchmarks.study.report` makes
`docs/study.md` of the files.
"""

import argparse
import fnmatch
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import read_json, write_json
from benchmarks.base import RESULTS, WORK, commit, machine, run_module
from benchmarks.hm.runs import TEST, VALIDATION
from benchmarks.hm.similarity_pages import read_pages
from benchmarks.pictures.hm import open_draws
from benchmarks.study.plan import (
    AS_PUBLISHED,
    EPOCHS,
    METHODS,
    RANKER_FEATURES,
    SEEDS,
    THROUGH_RANKER,
    UNTRAINED,
    WORLD_PAGES,
    Encoder,
    growing,
    methods,
    tries,
    variants,
)
from benchmarks.study.world import SIZES, write_logs
from models.data.dataset import Dataset

if TYPE_CHECKING:
    from benchmarks.study.encoders import Trained

FOLDER = RESULTS / "study"


class Cell(NamedTuple):
    """One thing to measure.

    Attributes:
        kind: `tuning`, `encoders`, `rankers`, `world` or `world_rankers`.
        name: of its file.
        encoder: to train, or whose pictures a ranker reads; `None` for the ranker without.
        seed: of everything random.
        tried: which try of tuning.
        feature: how pictures enter the ranker.
        size: pages to learn on in the simulated world.
    """

    kind: str
    name: str
    encoder: Encoder | None
    seed: int = 0
    tried: str = ""
    feature: str = ""
    size: int = 0

    @property
    def path(self) -> str:
        """Kind and name, as `--only` matches them."""
        return f"{self.kind}/{self.name}"


def cells(seeds: int) -> list[Cell]:
    """All cells, what others need first; by seed, so that what is interrupted has the first seed of everything."""
    return sorted(_cells(seeds), key=lambda cell: cell.seed)


def _cells(seeds: int) -> Iterator[Cell]:
    yield from (Cell("rankers", f"none-{seed}", None, seed, feature="none") for seed in range(seeds))
    for encoder in methods():
        yield from _cells_of(encoder, seeds, RANKER_FEATURES)
    for encoder in variants():
        yield from _cells_of(encoder, seeds, RANKER_FEATURES if encoder.variant in THROUGH_RANKER else ())
    yield from (Cell("world_rankers", f"none-{seed}", None, seed, feature="none") for seed in range(seeds))
    for encoder, size in growing():
        for seed in _seeds_of(encoder, seeds):
            yield Cell("world", f"{encoder.name}-{size}-{seed}", encoder, seed, size=size)
        for seed in range(seeds):
            name = f"{encoder.name}-{size}-{seed}"
            yield Cell("world_rankers", name, encoder, seed, feature="simscore", size=size)


def _cells_of(encoder: Encoder, seeds: int, features: Any) -> Iterator[Cell]:
    if encoder.method in METHODS and not encoder.variant:
        for name, tried in tries(encoder.method, encoder.start).items():
            yield Cell("tuning", f"{encoder.name}-{name}", tried, tried=name)
    of_seeds = _seeds_of(encoder, seeds)
    yield from (Cell("encoders", f"{encoder.name}-{seed}", encoder, seed) for seed in of_seeds)
    for feature in features:
        yield from (
            Cell("rankers", f"{encoder.name}-{feature}-{seed}", encoder, seed, feature=feature) for seed in range(seeds)
        )


def _seeds_of(encoder: Encoder, seeds: int) -> range:
    return range(1 if encoder.method == AS_PUBLISHED else seeds)  # nothing in it is random


class Study(NamedTuple):
    """Where everything lies.

    Attributes:
        draws: the datasets, which differ in what is sampled of their pages.
        work_dir: keeps encoders and rankers.
        results: keeps the files of cells.
        quick: whether training is cut short.
    """

    draws: list[Dataset]
    work_dir: Path
    results: Path
    quick: bool

    def dataset(self, view: str) -> Dataset:
        """The dataset with a view of the pre-training pages."""
        path = self.work_dir / f"dataset-{view}"
        if view == "page":
            return self.draws[0]
        if not path.exists():
            split = ",".join(str(each) for each in self.draws[0].manifest.options["split_by_time"])
            options = ("--logs", self.draws[0].path.parent / "logs", "--output", path, "--pretraining-view", view)
            run_module("beam_pipelines.build", *options, "--split-by-time", split, log=self.work_dir / f"{view}.log")
        return Dataset(path)

    def world(self, size: int) -> Dataset:
        """The simulated world with so many pages to learn on; 0: the most."""
        size = size or max(SIZES)
        logs, path = (self.work_dir.parent / "world" / f"{kind}-{size}" for kind in ("logs", "dataset"))
        if not path.exists():
            logs.parent.mkdir(parents=True, exist_ok=True)
            if not logs.exists():
                taste = write_logs(self.draws[0].path.parent / "logs", logs, size)
                write_json(logs / "taste.json", {"gauc_of_taste": taste})
            run_module("beam_pipelines.build", "--logs", logs, "--output", path, log=path.with_suffix(".log"))
        return Dataset(path)

    def chosen(self, encoder: Encoder) -> tuple[tuple[str, ...], str]:
        """What tuning has chosen for an encoder: configuration and form."""
        if encoder.method in (UNTRAINED, AS_PUBLISHED):
            return (), self.best_form([f"encoders/{encoder.name}-0"])[1]
        tried = tries(encoder.method, encoder.start)
        prefix = f"tuning/{encoder.method}-{encoder.start}"
        name, form = self.best_form([f"{prefix}-{each}" for each in tried])
        return tried[name.removeprefix(f"{prefix}-")].changes, form

    def best_form(self, names: list[str]) -> tuple[str, str]:
        """Of some cells and both forms, those of the best GAUC on the pages to choose on."""
        missing = [name for name in names if not (self.results / f"{name}.json").exists()]
        if missing:
            raise InputError(f"this needs the result of {missing[0]}; measure it first, by `--only {missing[0]}`")
        validation = {name: read_json(self.results / f"{name}.json")["validation"] for name in names}
        gaucs = {(name, form): gauc for name, forms in validation.items() for form, gauc in forms.items()}
        return max(gaucs, key=gaucs.__getitem__)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Does the work of a cell."""
        work = {"rankers": _rank, "world": _encode_world, "world_rankers": _rank_world}
        return work.get(cell.kind, _encode)(self, cell)


def _trained(study: Study, cell: Cell) -> "Trained":
    """The encoder of a cell, trained if the work directory lacks it."""
    from benchmarks.study.encoders import train

    encoder = cell.encoder
    assert encoder is not None
    learns = encoder.method not in (UNTRAINED, AS_PUBLISHED)
    chosen = study.chosen(encoder)[0] if learns and not cell.tried else ()
    seed = cell.seed if encoder.method != AS_PUBLISHED else 0
    if cell.kind.startswith("world"):
        dataset, folder, name = study.world(cell.size), "world", f"{encoder.name}-{cell.size}-{seed}"
        epochs = WORLD_PAGES // (cell.size or WORLD_PAGES)
    else:
        dataset, folder, epochs = study.dataset(encoder.view), "runs", EPOCHS[encoder.start]
        name = f"tuning-{cell.name}" if cell.tried else f"{encoder.name}-{seed}"
    return train(dataset, study.work_dir / folder / name, encoder, chosen, seed, 1 if study.quick else epochs)


def _similarities(study: Study, trained: "Trained", dataset: Dataset, with_test: bool) -> dict[str, Any]:
    from benchmarks.study.encoders import similarity

    has_image = trained.embeddings("raw").has_image
    validation = similarity(trained, read_pages(dataset, VALIDATION, has_image))
    figures: dict[str, Any] = {
        "overrides": trained.overrides,
        "training_seconds": trained.seconds,
        "validation": {form: round(float(aucs.mean()), 5) for form, aucs in validation.items()},
    }
    if with_test:
        test = similarity(trained, read_pages(dataset, TEST, has_image))
        figures["test"] = {form: np.round(aucs, 4).tolist() for form, aucs in test.items()}
    return figures


def _encode(study: Study, cell: Cell) -> dict[str, Any]:
    from benchmarks.study.encoders import label_knowledge

    trained, dataset = _trained(study, cell), study.draws[0]
    figures = _similarities(study, trained, dataset, with_test=not cell.tried)
    return figures if cell.tried else {**figures, **label_knowledge(trained, dataset)}


def _encode_world(study: Study, cell: Cell) -> dict[str, Any]:
    trained, dataset = _trained(study, cell), study.world(cell.size)
    taste = read_json(study.world(0).path.with_name(f"logs-{max(SIZES)}") / "taste.json")
    return {**taste, **_similarities(study, trained, dataset, with_test=True)}


def _rank(study: Study, cell: Cell) -> dict[str, Any]:
    from benchmarks.study.rankers import TestPages, measure, train
    from models.ranker.run import RankerRun

    trained, form = None, "raw"
    if cell.encoder is not None:
        trained, form = _trained(study, cell), study.chosen(cell.encoder)[1]
    path = study.work_dir / "rankers" / cell.name
    start = time.monotonic()
    train(study.draws[0], path, cell.feature, trained, form, cell.seed, 1 if study.quick else None)
    seconds = time.monotonic() - start
    tests = TestPages.read(study.draws)
    shared = study.results / "pages.json"
    if not shared.exists():
        shared.parent.mkdir(parents=True, exist_ok=True)
        write_json(shared, _pages(study, tests))
    return {"form": form, "training_seconds": round(seconds, 1), **measure(RankerRun(path).ranker(), tests)}


def _rank_world(study: Study, cell: Cell) -> dict[str, Any]:
    from benchmarks.study.rankers import measure_world, train_in_world
    from models.ranker.run import RankerRun

    trained, form, dataset = None, "raw", study.world(cell.size)
    if cell.encoder is not None:
        trained = _trained(study, cell)
        seed = cell.seed if cell.encoder.method != AS_PUBLISHED else 0
        form = study.best_form([f"world/{cell.encoder.name}-{cell.size}-{seed}"])[1]
    path = study.work_dir / "world_rankers" / cell.name
    train_in_world(dataset, path, trained, form, cell.seed, 1 if study.quick else None)
    return {"form": form, **measure_world(RankerRun(path).ranker(), dataset)}


def _pages(study: Study, tests: Any) -> dict[str, Any]:
    """What the values of all cells belong to: users of pages, and how many candidates each user has."""
    draw, pages = study.draws[0], tests.pages[0]
    rows = np.searchsorted(tests.users, np.repeat(pages.user, pages.valid.sum(axis=1)))
    clicked = pages.clicked[pages.valid]
    has_image = draw.image_index()["shard"].to_numpy() >= 0
    return {
        "notice": draw.manifest.notice,
        "similarity_user": read_pages(draw, TEST, has_image).user.tolist(),
        "ranker_user": {part: user.tolist() for part, user in tests.measurement.user.items()},
        "users": tests.users.tolist(),
        "candidates": [np.bincount(rows, chosen, len(tests.users)).tolist() for chosen in (clicked, ~clicked)],
    }


def run(study: Study, chosen: list[Cell], forwarded: list[str], again: bool) -> None:
    """Runs cells that have no file yet, each in a process of its own; what fails is told at the end."""
    failed = []
    waiting = [cell for cell in chosen if again or not (study.results / f"{cell.path}.json").exists()]
    with tqdm(waiting, unit="cell", desc="study") as progress:
        for cell in progress:
            progress.set_postfix_str(cell.path)
            log = study.work_dir / "logs" / f"{cell.kind}-{cell.name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "benchmarks.study.run", "--cell", cell.path, *forwarded]
            with open(log, "w") as file:
                done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                failed.append(f"{cell.path} failed; {log} ends with: {log.read_text().strip().splitlines()[-1]}")
                progress.write(failed[-1])
    if failed:
        sys.exit(f"error: {len(failed)} cells failed, the first: {failed[0]}")


def write_cell(study: Study, cell: Cell) -> None:
    """Measures a cell in this process and writes its file."""
    start = time.monotonic()
    figures = study.measure(cell)
    path = study.results / f"{cell.path}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "cell": cell.path,
        "command": f"python -m benchmarks.study.run --only '{cell.path}' --again",
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seconds": round(time.monotonic() - start),
        **figures,
    }
    write_json(path, result)


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Callable[..., Any] = parser.add_argument
    add("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M competition's files")
    add("--work-dir", type=Path, default=WORK / "study", help="what is there is reused")
    add("--data-dir", type=Path, default=WORK / "ranker_hm", help="of the datasets; what is there is reused")
    add("--only", metavar="PATTERN", default="*", help="cells whose KIND/NAME matches, for example rankers/courier-*")
    add("--again", action="store_true", help="also cells that have a file already")
    add("--list", action="store_true", help="print the cells that lack a file")
    add("--quick", action="store_true", help="one seed and one epoch of everything, in a folder of its own")
    add("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    results = RESULTS / "quick/study" if args.quick else FOLDER
    work_dir = args.work_dir / "quick" if args.quick else args.work_dir
    every = cells(1 if args.quick else SEEDS)
    chosen = [cell for cell in every if fnmatch.fnmatch(cell.path, args.only)]
    if args.list:
        print("\n".join(cell.path for cell in chosen if not (results / f"{cell.path}.json").exists()))
        return
    draws, _ = open_draws(args.source, args.data_dir)
    study = Study(draws, work_dir, results, args.quick)
    if args.cell is not None:
        try:
            write_cell(study, next(cell for cell in every if cell.path == args.cell))
        except InputError as error:
            sys.exit(f"error: {error}")
        return
    print(f"notice: {draws[0].manifest.notice}", flush=True)
    places = ("--source", str(args.source), "--work-dir", str(args.work_dir), "--data-dir", str(args.data_dir))
    run(study, chosen, [*places, *(["--quick"] if args.quick else [])], args.again)


if __name__ == "__main__":
    main()
