"""The page datasets of the study; each is built when it is first asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.format.text_file import write_json
from benchmarks.base import make_once, run_module
from benchmarks.pictures.hm import SPLIT_TIMES, open_draws
from benchmarks.study.plan import CATEGORIES, PARTS_OF_PAGES, WORLD
from benchmarks.study.world import World, write_logs
from models.data.dataset import Dataset

_VIEW = ("--pretraining-candidates", "10", "--pretraining-clicks", "10", "--pretraining-negatives", "1")
_QUICK_USERS = {"hm": 12, "sample": 10, "movielens": 20}
_QUICK_SHARE = 128  # the world of a quick run is smaller by


class StudyData(NamedTuple):
    """Where the datasets lie.

    Attributes:
        source: the competition's files.
        posters: the files of MovieLens with posters.
        draws_dir: of H&M's datasets, see `benchmarks.pictures.hm`.
        work_dir: of the others.
        quick: whether they are small.
    """

    source: Path
    posters: Path
    draws_dir: Path
    work_dir: Path
    quick: bool

    @property
    def world(self) -> World:
        """The simulated world."""
        return WORLD.smaller(_QUICK_SHARE) if self.quick else WORLD

    def draws(self) -> list[Dataset]:
        """H&M, as often as the unclicked candidates of the test pages are sampled; the first one is learned on."""
        draws, _ = open_draws(self.source, self.draws_dir)
        if not self.quick:
            return draws
        return [self._build("few", self._logs(), *_VIEW, "--split-by-time", SPLIT_TIMES)]

    def view(self, name: str) -> Dataset:
        """H&M with a view of the pre-training pages, see `Encoder`."""
        first = self.draws()[0]
        if name == "page":
            return first
        logs = self._logs()
        options: tuple[str, ...] = ("--split-by-time", SPLIT_TIMES)
        if name == "causal":
            options += ("--pretraining-view", "causal")
        elif name in CATEGORIES:
            options += ("--pretraining-categories", CATEGORIES[name])
        else:
            whole, logs = logs, self.work_dir / f"logs-{name}"
            until = first.pretraining_view().window.last
            make_once(logs, lambda: write_fewer_pages(whole, logs, PARTS_OF_PAGES[name], until))
        return self._build(name, logs, *_VIEW, *options)

    def of_world(self, size: int = 0) -> Dataset:
        """The simulated world with so many pages to learn on; 0: the fewest. `taste.json` is the GAUC of its taste."""
        size = size or min(self.world.sizes)
        logs = self.work_dir / f"logs-world-{size}"

        def write() -> None:
            taste = write_logs(self.world, self._logs(), logs, size)
            write_json(self.work_dir / "taste.json", {"gauc_of_taste": taste})

        return self._build(f"world-{size}", make_once(logs, write))

    def other(self, name: str) -> Dataset:
        """The shipped `sample`, or `movielens` with its posters."""
        logs = self.work_dir / f"logs-{name}"
        words = (*(("--source", self.posters) if name == "movielens" else ()), "--output", logs)
        log = self.work_dir / f"logs-{name}.log"
        make_once(logs, lambda: run_module(f"beam_pipelines.datasets.{name}", *words, log=log))
        logs = self._few(name, logs)
        if name == "sample":
            return self._build(name, logs)
        return self._build(name, logs, "--split-by-time", split_times(logs, (0.5, 0.8)))

    def _logs(self) -> Path:
        return self._few("hm", self.draws_dir / "logs")

    def _few(self, name: str, logs: Path) -> Path:
        """The logs, in a quick run those of a few users."""
        if not self.quick:
            return logs
        few = self.work_dir / f"logs-few-{name}"
        return make_once(few, lambda: write_few_users(logs, few, _QUICK_USERS[name]))

    def _build(self, name: str, logs: Path, *options: str) -> Dataset:
        path = self.work_dir / f"dataset-{name}"
        words = ("--logs", logs, "--output", path, *options)
        return Dataset(
            make_once(path, lambda: run_module("beam_pipelines.build", *words, log=path.with_suffix(".log")))
        )


def split_times(logs: Path, shares: Sequence[float]) -> str:
    """The moments at which shares of the impressions are reached, as `--split-by-time` takes them."""
    moments = pq.read_table(logs / "impressions.parquet", columns=["timestamp"])["timestamp"].cast(pa.int64())
    return ",".join(str(int(moment)) for moment in np.quantile(moments.to_numpy(), shares))


def write_few_users(logs: Path, output: Path, users: int) -> None:
    """The first users of the logs, with what they saw and did; of the items only those."""
    tables = {path.stem: pq.read_table(path) for path in sorted(logs.glob("*.parquet"))}
    known = pc.unique(tables["impressions"]["user_id"]).slice(0, users)
    few = {name: table.filter(pc.is_in(table["user_id"], known)) for name, table in tables.items() if name != "items"}
    shown = pa.concat_tables(few[name].select(["item_id"]) for name in ("impressions", "events") if name in few)
    few["items"] = tables["items"].filter(pc.is_in(tables["items"]["item_id"], shown["item_id"].combine_chunks()))
    _write(few, logs, output)


def write_fewer_pages(logs: Path, output: Path, part: int, until: int) -> None:
    """Every `part`th of the pages up to a moment; clicks and payments of the others stay in histories."""
    tables = {name: pq.read_table(logs / f"{name}.parquet") for name in ("users", "events", "items", "impressions")}
    rows = tables["impressions"]
    pages = rows["page_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    early = rows["timestamp"].cast(pa.int64()).to_numpy() <= until
    order = np.random.default_rng(0).permutation(pages.max() + 1)
    left_out = early & (order[pages] % part != 0)
    tables["impressions"] = rows.filter(pa.array(~left_out))
    dropped, known = rows.filter(pa.array(left_out)), [tables["events"]]
    for label, event in (("clicked", "click"), ("converted", "pay")):
        done = dropped.filter(pc.cast(dropped[label], pa.bool_()))
        names = pa.array([event] * len(done))
        known.append(done.select(["user_id", "item_id", "timestamp"]).append_column("event", names))
    tables["events"] = pa.concat_tables(known, promote_options="permissive").select(tables["events"].schema.names)
    _write(tables, logs, output)


def _write(tables: dict[str, pa.Table], logs: Path, output: Path) -> None:
    if not all(len(table) for table in tables.values()):
        raise InputError(f"{logs}: nothing is left of one of the tables")
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_directory(output) as directory:
        for name, table in tables.items():
            pq.write_table(table, directory / f"{name}.parquet")
        (directory / "logs.json").write_bytes((logs / "logs.json").read_bytes())
        (directory / "images").symlink_to((logs / "images").resolve())
