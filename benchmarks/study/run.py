"""The study of ways to pre-train: each cell by itself, so that what was interrupted goes on with the cells it lacks.

    python -m benchmarks.study.run [--source DIR] [--work-dir DIR] [--only PATTERN] [--list] [--quick]

What is measured, and what each way gets, is in `benchmarks/study/plan.py`. A cell is a process and a result file,
`benchmarks/results/study/DATA/KIND/NAME.json`:

- `tuning`: one try of one way, measured on the train window's pages;
- `encoders`: one way and one seed, with what tuning chose: SimScore on the test pages, on H&M also labels of
  neighbours and a probe;
- `rankers`: a ranker that reads an encoder's pictures by one feature, on H&M measured on five draws of the test pages.

Encoders, embeddings and rankers are kept in the work directory. `--only 'hm/rankers/courier-*'` runs cells by their
name, also with `--again` where they are there: so each row can be repeated. `--quick` runs a process for each core.
`python -m benchmarks.study.report` makes `docs/study.md` of the files.
"""

import argparse
import fnmatch
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import read_json
from benchmarks.base import RESULTS, WORK, commit, machine
from benchmarks.hm.runs import TEST, VALIDATION
from benchmarks.hm.similarity_pages import read_pages
from benchmarks.study.data import StudyData
from benchmarks.study.plan import (
    AS_PUBLISHED,
    EPOCHS,
    METHODS,
    OTHER_DATA,
    SEEDS,
    SEEDS_OF_OTHER_DATA,
    SEEDS_OF_SETTINGS,
    THROUGH_RANKER,
    WORLD,
    Encoder,
    features_of,
    fewer_pages,
    growing,
    methods,
    tries,
    variants,
)
from models.data.dataset import Dataset

if TYPE_CHECKING:
    from benchmarks.study.encoders import Trained

FOLDER = RESULTS / "study"
_GROUPS_PER_PROCESS = 8  # of a quick run: what is traced for one encoder stays in memory, some 100 MB a cell


class Cell(NamedTuple):
    """One thing to measure.

    Attributes:
        data: `hm`, `world`, `sample` or `movielens`.
        kind: `tuning`, `encoders` or `rankers`.
        name: of its file.
        encoder: to train, or whose pictures a ranker reads; `None` for the ranker without.
        seed: of everything random.
        feature: how pictures enter the ranker.
        size: pages to learn on in the simulated world.
    """

    data: str
    kind: str
    name: str
    encoder: Encoder | None
    seed: int = 0
    feature: str = ""
    size: int = 0

    @property
    def path(self) -> str:
        """Data, kind and name, as `--only` matches them."""
        return f"{self.data}/{self.kind}/{self.name}"


def cells(seeds: int, sizes: Sequence[int] = WORLD.sizes) -> list[Cell]:
    """All cells, what others need first; by seed, so that what is interrupted has the first seed of everything.

    Args:
        seeds: how many.
        sizes: of the simulated world.
    """
    return sorted(_cells(seeds, sizes), key=lambda cell: cell.seed)


def _cells(seeds: int, sizes: Sequence[int]) -> Iterator[Cell]:
    for encoder in methods():
        if encoder.method in METHODS:
            for name, tried in tries(encoder.method, encoder.start).items():
                yield Cell("hm", "tuning", f"{encoder.name}-{name}", tried)
        yield from _encoder_cells("hm", encoder, seeds, features_of(encoder))
    for encoder in (*fewer_pages(), *variants()):
        yield from _encoder_cells("hm", encoder, seeds, features_of(encoder))
    for encoder, size in growing(sizes):
        of_size = min(seeds, SEEDS_OF_SETTINGS) if encoder == Encoder("courier", "published") else seeds
        yield from _encoder_cells("world", encoder, of_size, ("simscore",), size)
    for data in OTHER_DATA:
        for encoder in methods():
            yield from _encoder_cells(data, encoder, SEEDS_OF_OTHER_DATA, ("simscore",))
    seeds_of = {"hm": seeds, "world": seeds} | dict.fromkeys(OTHER_DATA, SEEDS_OF_OTHER_DATA)
    for data, rankers in seeds_of.items():
        yield from (Cell(data, "rankers", f"none-{seed}", None, seed, "none") for seed in range(rankers))


def _encoder_cells(data: str, encoder: Encoder, seeds: int, features: Sequence[str], size: int = 0) -> Iterator[Cell]:
    name = f"{encoder.name}-{size}" if size else encoder.name
    if encoder.variant and encoder.variant not in THROUGH_RANKER:
        seeds = min(seeds, SEEDS_OF_SETTINGS)
    for seed in range(1 if encoder.method == AS_PUBLISHED else seeds):  # nothing in that one is random
        yield Cell(data, "encoders", f"{name}-{seed}", encoder, seed, size=size)
    for feature in features:
        for seed in range(seeds):
            yield Cell(data, "rankers", f"{name}-{feature}-{seed}", encoder, seed, feature, size)


class Study(NamedTuple):
    """The study at work.

    Attributes:
        data: its datasets.
        results: folder of the files of cells.
    """

    data: StudyData
    results: Path

    def dataset(self, cell: Cell) -> Dataset:
        """What the encoder of a cell learns on."""
        if cell.data == "hm":
            return self.data.view(cell.encoder.view if cell.encoder is not None else "page")
        return self.data.of_world(cell.size) if cell.data == "world" else self.data.other(cell.data)

    def pages(self, cell: Cell) -> int:
        """How many an encoder is shown, with repetition."""
        if cell.data == "world":
            return max(self.data.world.sizes)
        assert cell.encoder is not None
        whole = self.data.view("page") if cell.data == "hm" else self.dataset(cell)
        return whole.pretraining_view().pages * EPOCHS[cell.encoder.start]

    def changes(self, cell: Cell) -> tuple[str, ...]:
        """The configuration of an encoder: that of tuning's choice on H&M, or of the try, and its own.

        What a variant sets to what it is anyway is left out, so that it is the same encoder as COURIER.
        """
        from models.config import load_config
        from models.pretraining.config import PretrainConfig
        from models.pretraining.methods import PRESETS

        encoder = cell.encoder
        assert encoder is not None
        if encoder.method not in METHODS or cell.kind == "tuning":
            return encoder.changes
        tried = tries(encoder.method, encoder.start)
        prefix = f"hm/tuning/{encoder.method}-{encoder.start}"
        name, _ = self._best([f"{prefix}-{each}" for each in tried])
        chosen = tried[name.removeprefix(f"{prefix}-")].changes
        before, after = (
            load_config(PretrainConfig, PRESETS[encoder.method], changes)
            for changes in (chosen, (*chosen, *encoder.changes))
        )
        return chosen if before == after else (*chosen, *encoder.changes)

    def form(self, cell: Cell) -> str:
        """The form of its embeddings that a ranker reads: on H&M tuning's choice, elsewhere the better of its own."""
        encoder = cell.encoder
        assert encoder is not None
        if cell.data == "hm" and encoder.method in METHODS:
            prefix = f"hm/tuning/{encoder.method}-{encoder.start}"
            return self._best([f"{prefix}-{each}" for each in tries(encoder.method, encoder.start)])[1]
        name = f"{encoder.name}-{cell.size}" if cell.size else encoder.name
        return self._best([f"{cell.data}/encoders/{name}-0"])[1]

    def _best(self, names: Sequence[str]) -> tuple[str, str]:
        """Of some cells and both forms, those of the best GAUC on the pages to choose on."""
        missing = [name for name in names if not (self.results / f"{name}.json").exists()]
        if missing:
            raise InputError(f"this needs the result of {missing[0]}; measure it first, by `--only {missing[0]}`")
        validation = {name: read_json(self.results / f"{name}.json")["validation"] for name in names}
        gaucs = {(name, form): gauc for name, forms in validation.items() for form, gauc in forms.items()}
        return max(gaucs, key=gaucs.__getitem__)

    def trained(self, cell: Cell) -> "Trained":
        """The encoder of a cell, trained if the work directory lacks it."""
        from benchmarks.study.encoders import train

        assert cell.encoder is not None
        seed = 0 if cell.encoder.method == AS_PUBLISHED else cell.seed
        dataset = self.dataset(cell)
        changes, epochs = self.changes(cell), max(1, round(self.pages(cell) / dataset.pretraining_view().pages))
        if self.data.quick:
            batch = min(4, dataset.pretraining_view().pages)
            changes, epochs = (*changes, f"batch_size={batch}", "image_size=[48, 32]", "validation_share=0"), 1
        return train(dataset, self.data.work_dir / "runs", cell.encoder, changes, seed, epochs)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Does the work of a cell."""
        if cell.kind == "rankers":
            return self._rank_hm(cell) if cell.data == "hm" else self._rank(cell)
        figures = self._similarities(cell)
        if cell.data == "hm" and cell.kind == "encoders" and cell.encoder and not cell.encoder.variant:
            from benchmarks.study.encoders import label_consistencies, type_probe

            figures["consistency"] = label_consistencies(self.trained(cell), self.data.view("page"))
            if not cell.seed:  # as long as training some of the encoders
                figures["probe"] = type_probe(self.trained(cell), self.data.view("page"))
        return figures

    def _similarities(self, cell: Cell) -> dict[str, Any]:
        from benchmarks.study.encoders import similarity

        trained = self.trained(cell)
        # Of views and sizes all pages but those to learn on are the same.
        dataset = self.data.view("page") if cell.data == "hm" else self.dataset(cell)
        has_image = trained.embeddings("raw").has_image
        figures: dict[str, Any] = {"overrides": trained.overrides, "training_seconds": trained.seconds}
        if cell.data == "world":
            figures |= read_json(self.data.work_dir / "taste.json")
        validation = similarity(trained, read_pages(dataset, VALIDATION, has_image))
        figures["validation"] = {form: round(float(aucs.mean()), 5) for form, aucs in validation.items()}
        if cell.kind != "tuning":
            pages = read_pages(dataset, TEST, has_image)
            figures["test"] = {form: np.round(aucs, 4).tolist() for form, aucs in similarity(trained, pages).items()}
            if cell.data != "hm":
                figures["user"] = pages.user.tolist()
        return figures

    def _rank_hm(self, cell: Cell) -> dict[str, Any]:
        from benchmarks.study.rankers import TestPages, measure, train
        from models.ranker.run import RankerRun

        draws, trained, form = self.data.draws(), None, "raw"
        if cell.encoder is not None:
            trained, form = self.trained(cell), self.form(cell)
        path = self._ranker_path(cell)
        start = time.monotonic()
        train(draws[0], path, cell.feature, trained, form, cell.seed, self.data.quick)
        seconds = time.monotonic() - start
        tests = TestPages.read(draws)
        shared = self.results / "hm/pages.json"
        if not shared.exists():
            shared.parent.mkdir(parents=True, exist_ok=True)
            write_figures(shared, {"notice": draws[0].manifest.notice, **tests.described(draws[0])})
        return {"form": form, "training_seconds": round(seconds, 1), **measure(RankerRun(path).ranker(), tests)}

    def _rank(self, cell: Cell) -> dict[str, Any]:
        from benchmarks.study.rankers import measure_pages, train_without_ids
        from models.ranker.run import RankerRun

        trained, form, dataset = None, "raw", self.dataset(cell)
        if cell.encoder is not None:
            trained, form = self.trained(cell), self.form(cell)
        path, tasks = self._ranker_path(cell), cell.data == "sample"
        train_without_ids(dataset, path, trained, form, cell.seed, self.data.quick, tasks)
        return {"form": form, **measure_pages(RankerRun(path).ranker(), dataset, tasks)}

    def _ranker_path(self, cell: Cell) -> Path:
        return self.data.work_dir / "rankers" / f"{cell.data}-{cell.name}"

    def write(self, cell: Cell) -> None:
        """Measures a cell and writes its file."""
        start = time.monotonic()
        figures = self.measure(cell)
        path = self.results / f"{cell.path}.json"
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
        write_figures(path, result)


def write_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Writes a file of the study, a line for each key: most of it is long rows of numbers."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in figures.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def run(study: Study, chosen: list[Cell], forwarded: list[str], again: bool) -> None:
    """Runs cells that have no file yet, each in a process of its own; what fails is told at the end.

    Several may run beside each other, on cells of different patterns.
    """
    failed = []
    with tqdm(chosen, unit="cell", desc="study") as progress:
        for cell in progress:
            if (study.results / f"{cell.path}.json").exists() and not again:
                continue
            progress.set_postfix_str(cell.path)
            log = study.data.work_dir / "logs" / f"{cell.path.replace('/', '-')}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "benchmarks.study.run", "--cell", cell.path, *forwarded]
            with open(log, "w") as file:
                done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                failed.append(f"{cell.path} failed; {log} ends with: {log.read_text().strip().splitlines()[-1]}")
                progress.write(failed[-1])
    if failed:
        sys.exit(f"error: {len(failed)} cells failed, the first: {failed[0]}")


def run_quick(study: Study, chosen: list[Cell]) -> None:
    """Runs cells that have no file yet, an encoder's in one process, with a process for each core; see `run`.

    Cells this small take less time than a process that starts.
    """
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # more would wait for their one core
    waiting = [cell for cell in chosen if not (study.results / f"{cell.path}.json").exists()]
    workers = len(os.sched_getaffinity(0))
    study.data.draws()  # most others are made of its logs
    smallest = min(study.data.world.sizes)
    of_dataset = {
        (cell.data, cell.encoder.view if cell.encoder else "page", cell.size or smallest): cell for cell in waiting
    }
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(study.dataset, of_dataset.values()))
    failed = []
    with tqdm(total=len(waiting), unit="cell", desc="study") as progress:

        def done(group: list[Cell], error: BaseException | None) -> None:
            if error is not None:
                failed.append(f"{group[0].path} failed: {error}")
                progress.write(failed[-1])
            progress.update(len(group))

        for groups in independent_groups(waiting):
            to_write = deque(sorted(groups, key=len, reverse=True))
            with ThreadPoolExecutor(workers) as threads:
                for each in [threads.submit(_write_groups, study, to_write, done) for _ in range(workers)]:
                    each.result()
    if failed:
        sys.exit(f"error: the cells of {len(failed)} encoders failed, the first: {failed[0]}")


def _write_groups(study: Study, to_write: deque[list[Cell]], done: Callable[..., None]) -> None:
    """Writes groups of cells until none is left, in one process after another."""
    while to_write:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _trace_fast) as pool:
            for _ in range(_GROUPS_PER_PROCESS):
                try:
                    group = to_write.popleft()
                except IndexError:  # another has taken the last one
                    return
                error = pool.submit(_write_group, study, group).exception()
                done(group, error)
                if isinstance(error, BrokenProcessPool):
                    break


def independent_groups(waiting: Sequence[Cell]) -> list[list[list[Cell]]]:
    """Groups of cells that need each other, in two rounds: the second needs what tuning chooses in the first."""
    rounds: list[dict[Any, list[Cell]]] = [{}, {}]
    for cell in waiting:
        name, variant = (cell.encoder.name, cell.encoder.variant) if cell.encoder is not None else ("", "")
        later = cell.data != "hm" or bool(variant)
        rounds[later].setdefault((cell.data, name, cell.size), []).append(cell)
    return [list(groups.values()) for groups in rounds]


def _trace_fast() -> None:
    """Sets a process up for graphs that run a few times, so that most of its time is what TensorFlow traces."""
    import tensorflow as tf

    gc.disable()  # it would look through all graphs again and again; `_write_group` collects between cells
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # Graphs of a few steps: to optimise them takes longer than to run them as they are.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def _write_group(study: Study, group: list[Cell]) -> None:
    import keras
    import tensorflow as tf

    for cell in group:
        tf.config.run_functions_eagerly(cell.kind == "rankers")  # a few steps cost less than their graph
        study.write(cell)
        keras.backend.clear_session()
        gc.collect()


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Callable[..., Any] = parser.add_argument
    add("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M competition's files")
    add("--posters", type=Path, default=Path("../shared/data/movielens_posters"), help="MovieLens with its posters")
    add("--work-dir", type=Path, default=WORK / "study", help="what is there is reused")
    add("--data-dir", type=Path, default=WORK / "ranker_hm", help="of H&M's datasets; what is there is reused")
    add("--only", metavar="PATTERN", default="*", help="cells whose DATA/KIND/NAME matches, as hm/rankers/courier-*")
    add("--again", action="store_true", help="also cells that have a file already")
    add("--list", action="store_true", help="print the cells that lack a file")
    add("--quick", action="store_true", help="one seed and one epoch on a few pages, in a folder of its own")
    add("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    results = RESULTS / "quick/study" if args.quick else FOLDER
    work_dir = args.work_dir / "quick" if args.quick else args.work_dir
    study = Study(StudyData(args.source, args.posters, args.data_dir, work_dir, args.quick), results)
    every = cells(1 if args.quick else SEEDS, study.data.world.sizes)
    chosen = [cell for cell in every if fnmatch.fnmatch(cell.path, args.only)]
    try:
        if args.list:
            print("\n".join(cell.path for cell in chosen if not (results / f"{cell.path}.json").exists()))
        elif args.cell is not None:
            study.write(next(cell for cell in every if cell.path == args.cell))
        else:
            print(f"notice: {study.data.draws()[0].manifest.notice}", flush=True)
            if args.quick:
                run_quick(study, chosen)
                return
            places = ("source", "posters", "work_dir", "data_dir")
            words = [word for name in places for word in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
            run(study, chosen, words, args.again)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
