"""Measures rankers on the pages of a split: `python -m models.evaluate`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tqdm import tqdm

from beam_pipelines.format.errors import about
from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import ArgumentParser, CommandError, require_directory, run_command
from beam_pipelines.shell.report import aligned, finite, write_json
from models.artifact import read_metadata
from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead
from models.data.pages import GROUPS, page_batches, page_records
from models.evaluation.html import render
from models.evaluation.report import PARTS, evaluation_report
from models.evaluation.scored_pages import ScoredPages, score_pages
from models.evaluation.slices import Slices, by_category, by_count, by_flag, by_item_age
from models.ranker.run import CONFIG_FILE, TRAINING_COUNTS_FILE, RankerMetadata, load_ranker

METRICS_FILE = "metrics.json"
TABLE_FILE = "table.txt"
PAGE_FILE = "report.html"
PREDICTIONS = "predictions"
_BATCH_SIZE = 128


def main(argv: Sequence[str] | None = None) -> str:
    """Scores the pages with every model, writes the report and returns the closing line."""
    parser = ArgumentParser("Measures rankers on the pages of a split.")
    parser.add_argument("--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build")
    parser.add_argument(
        "--model",
        nargs="+",
        default=["artifacts/ranker"],
        metavar="[NAME=]RUN",
        help="run directories of models.train_ctr; the others are compared with the first. Runs of one NAME are "
        "averaged; without names, those that differ in nothing but the seed",
    )
    parser.add_argument("--output", type=Path, default=Path("artifacts/report"), help="directory to write")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which pages")
    parser.add_overwrite()
    args = parser.parse_args(argv)

    dataset = Dataset(require_directory(args.data, "--data", "beam_pipelines.build"))
    manifest, split = dataset.manifest, dataset.split(args.split)
    named = _names([_Model.parse(text) for text in args.model])
    names = {name: model.run for name, model in named.items()}
    with about("model"):
        runs = {name: read_metadata(RankerMetadata, run, "models.train_ctr") for name, run in names.items()}
    for name, metadata in runs.items():
        for table, ours, theirs in (
            ("item", manifest.items.ids_sha256, metadata.item_ids_sha256),
            ("user", manifest.users.ids_sha256, metadata.user_ids_sha256),
        ):
            if ours != theirs:
                raise CommandError(
                    f"--model: {names[name]} was trained on another dataset than {dataset.path} (its {table} table "
                    "differs); train it on this one"
                )
    try:
        configs = {name: (run / CONFIG_FILE).read_text() for name, run in names.items()}
    except FileNotFoundError as error:
        raise CommandError(f"--model: {error.filename} is missing; train the ranker again") from error
    systems = _systems(named, runs, configs)
    seen_by = [np.load(run / TRAINING_COUNTS_FILE) > 0 for run in names.values()]
    unseen_item = ~np.logical_or.reduce(seen_by)

    tf.get_logger().setLevel("ERROR")  # each model traces its own graph, which TensorFlow takes for a mistake
    with whole_directory(args.output, overwrite=args.overwrite, inputs=[args.data, *names.values()]) as output:
        (output / PREDICTIONS).mkdir()
        scores = {}
        for name, run in names.items():
            ranker = load_ranker(run)
            lengths = ranker.config.lengths.model_copy(update={"candidates": manifest.max_candidates})
            pages = page_batches(dataset, args.split, lengths, batch_size=_BATCH_SIZE, to_longest=GROUPS)
            steps = math.ceil(split.pages / _BATCH_SIZE)
            scores[name] = score_pages(ranker, tqdm(pages, total=steps, desc=name, unit="batch"))
            _refuse_nan(scores[name], run)
        first = next(iter(scores.values()))
        unseen = unseen_item[first.item]
        for name in names:
            _write_predictions(scores[name], unseen, dataset, output / PREDICTIONS / f"{name}.parquet")
        slices = _slices(dataset, args.split, first, unseen)
        measured = evaluation_report(scores, unseen, slices, systems, split.negative_rate)
        for name, model in measured["models"].items():
            run = {
                "run": str(names[name]),
                "digest": runs[name].digest(),
                "image_feature": runs[name].image_feature,
                "seed": runs[name].seed,
            }
            measured["models"][name] = run | model
        report = finite(
            {
                "notice": manifest.notice,
                "data": str(args.data),
                "dataset_digest": manifest.digest(),
                "split": args.split,
                "pages": split.pages,
                **measured,
            }
        )
        write_json(output / METRICS_FILE, report)
        text = _table(report)
        (output / TABLE_FILE).write_text(text + "\n")
        (output / PAGE_FILE).write_text(render(report))
        print(text)
    return f"wrote the report on {len(names)} models and {split.pages} {args.split} pages to {args.output}"


class _Model(NamedTuple):
    """What `--model` names.

    Attributes:
        system: what the run is averaged as; `None` if it is not said.
        run: the run directory.
    """

    system: str | None
    run: Path

    @classmethod
    def parse(cls, text: str) -> "_Model":
        """Reads `[NAME=]RUN`."""
        system, equals, run = text.partition("=")
        return cls(system, Path(run)) if equals and system and not Path(text).exists() else cls(None, Path(text))


def _names(models: Sequence[_Model]) -> dict[str, _Model]:
    """Rows of the report: directory names, or whole paths where those are equal."""
    names = [model.run.name for model in models]
    unique = len(set(names)) == len(names)
    named = {(model.run.name if unique else str(model.run).replace("/", "_")): model for model in models}
    if len(named) < len(models):
        raise CommandError(f"--model: the same run twice: {', '.join(str(model.run) for model in models)}")
    return named


def _systems(
    models: Mapping[str, _Model], runs: Mapping[str, RankerMetadata], configs: Mapping[str, str]
) -> dict[str, list[int]]:
    """What is compared: the runs of one name, or else those that differ in nothing but the seed; others are one each.

    Without a name, a system of several runs is named after its image feature, and after its first run, too, where
    several systems have the same one. A system of one run has the run's name.
    """
    groups: dict[tuple[str | None, str], list[int]] = {}
    for number, (name, run) in enumerate(runs.items()):
        alike = run.model_dump_json(include={"image_feature", "dataset_digest", "embeddings", "clusters"})
        system = models[name].system
        groups.setdefault((system, alike + configs[name] if system is None else ""), []).append(number)
    names = list(runs)
    features = [runs[names[members[0]]].image_feature for (system, _), members in groups.items() if system is None]
    systems: dict[str, list[int]] = {}
    for (system, _), members in groups.items():
        first = names[members[0]]
        name = system or first
        if system is None and len(members) > 1:
            feature = runs[first].image_feature
            name = feature if features.count(feature) == 1 and feature not in names else f"{feature} as {first}"
        if name in systems:
            raise CommandError(f"--model: two systems have the name {name}; give one of them another NAME=")
        systems[name] = members
    return systems


def _slices(dataset: Dataset, split: str, scores: ScoredPages, unseen: np.ndarray) -> list[Slices]:
    items = dataset.items()
    slices = [
        by_flag("training", ("seen in training", "unseen in training"), unseen),
        by_category(items, scores.item),
    ]
    if "published_at" in items.column_names:
        slices.append(by_item_age(items, scores.item, scores.timestamp))
    steps = click_history_lengths(dataset, split)[scores.page]
    return [*slices, by_count("click history", steps), by_count("position", scores.position)]


def click_history_lengths(dataset: Dataset, split: str) -> np.ndarray:
    """Steps in the click history of each page, whole ones whatever a ranker reads: int64 `(pages,)`."""
    spec = {"click_item": tf.io.RaggedFeature(tf.int64)}

    def lengths(serialized: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.io.parse_example(serialized, spec)["click_item"].row_lengths(), tf.int64)

    records = page_records(dataset, split).batch(1024)
    return np.concatenate(list(map_ahead(records, lengths).as_numpy_iterator()))


def _refuse_nan(scores: ScoredPages, run: Path) -> None:
    for name in ("ctr", "ctcvr", "dwell"):
        values = getattr(scores, name)
        if values is not None and np.isnan(values).any():
            page = scores.page_ids[scores.page[np.isnan(values).argmax()]].decode()
            raise CommandError(f"--model: {run} gives NaN for {name} (the first on page {page}); train it again")


def _write_predictions(scores: ScoredPages, unseen: np.ndarray, dataset: Dataset, path: Path) -> None:
    item_ids, user_ids = dataset.items()["item_id"].combine_chunks(), dataset.users()["user_id"].combine_chunks()
    table = {
        "page_id": pa.array(scores.page_ids[scores.page].astype(str)),
        "user_id": user_ids.take(pa.array(scores.user)),
        "item_id": item_ids.take(pa.array(scores.item)),
        "position": scores.position,
        "clicked": scores.clicked,
        "ctr": scores.ctr,
        "unseen_item": unseen,
    }
    table |= {name: getattr(scores, name) for name in ("ctcvr", "dwell") if getattr(scores, name) is not None}
    pq.write_table(pa.table(table), path)


def _table(report: dict[str, Any]) -> str:
    """The report as aligned text."""
    models, systems = report["models"], report["systems"]
    metrics = ("AUC", "GAUC", "GAUC unseen", "log loss", "COPC", "GAUC difference")
    rows = [(name, model["image_feature"], *_cells(model)) for name, model in models.items()]
    lines = [aligned([("model", "image feature", *metrics), *rows], text_columns=2)]
    if len(systems) < len(models):
        rows = [(name, str(len(system["models"])), *_cells(system)) for name, system in systems.items()]
        lines += ["", aligned([("mean over runs", "runs", *metrics), *rows], text_columns=2)]
    every, unseen = (next(iter(models.values()))[part] for part in PARTS)
    lines += [
        "",
        f"{report['split']} pages: {report['pages']}, {every['candidates']} candidates, {every['clicks']} clicks, "
        f"{report['users']} users.",
        f"GAUC: mean AUC of the {every['pages']} pages with clicked and unclicked candidates.",
        f"GAUC unseen: the same over items on no training page, {unseen['candidates']} candidates on "
        f"{unseen['pages']} pages.",
        "COPC: clicks over predicted clicks.",
    ]
    if len(models) > 1:
        lines.append(
            f"GAUC difference: from the first row, with a paired {report['level']:.0%} interval ({report['samples']} "
            "bootstrap samples of users)."
        )
    if report["notice"]:
        lines.append(f"notice: {report['notice']}")
    return "\n".join(lines)


def _cells(ranker: dict[str, Any]) -> tuple[str, ...]:
    every, unseen = (ranker[part] for part in PARTS)
    figures = (every["auc"], every["gauc_page_mean"], unseen["gauc_page_mean"], every["log_loss"])
    cells = ["nan" if figure is None else f"{figure:.4f}" for figure in figures]
    cells.append("nan" if every["copc"] is None else f"{every['copc']:.3f}")
    difference = every.get("differences", {}).get("gauc_page_mean")
    if difference is None or difference["low"] is None:
        return *cells, ""
    return *cells, "{difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(**difference)


if __name__ == "__main__":
    run_command(main)
