"""Measures rankers on the pages of a split: `python -m models.evaluate`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tqdm import tqdm

from beam_pipelines.command import ArgumentParser, CommandError, require_directory, run_command, whole_directory
from beam_pipelines.manifest import SPLITS
from models.artifacts import RankerMetadata, read_metadata
from models.ctr.ranker import load_ranker
from models.ctr.scoring import Scores, measure, score_pages
from models.data.dataset import Dataset
from models.data.pages import page_batches
from models.train_ctr import TRAINING_COUNTS_FILE

METRICS_FILE = "metrics.json"
TABLE_FILE = "table.txt"
PREDICTIONS = "predictions"
_BATCH_SIZE = 256


def main(argv: Sequence[str] | None = None) -> str:
    """Scores the pages with every model, writes the report and returns the closing line."""
    parser = ArgumentParser("Measures rankers on the pages of a split.")
    parser.add_argument("--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build")
    parser.add_argument(
        "--model", type=Path, nargs="+", default=[Path("artifacts/ranker")], help="run directories of models.train_ctr"
    )
    parser.add_argument("--output", type=Path, default=Path("artifacts/report"), help="directory to write")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which pages")
    parser.add_overwrite()
    args = parser.parse_args(argv)

    dataset = Dataset(require_directory(args.data, "--data", "beam_pipelines.build"))
    manifest, split = dataset.manifest, dataset.split(args.split)
    names = _names(args.model)
    runs = {name: read_metadata(RankerMetadata, run, "--model", "models.train_ctr") for name, run in names.items()}
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

    tf.get_logger().setLevel("ERROR")  # each model traces its own graph, which TensorFlow takes for a mistake
    with whole_directory(args.output, overwrite=args.overwrite, inputs=[args.data, *args.model]) as output:
        (output / PREDICTIONS).mkdir()
        models = {}
        for name, run in names.items():
            ranker = load_ranker(run)
            lengths = ranker.config.lengths.model_copy(update={"candidates": manifest.max_candidates})
            pages = page_batches(dataset, args.split, lengths, batch_size=_BATCH_SIZE)
            steps = math.ceil(split.pages / _BATCH_SIZE)
            scores = score_pages(ranker, tqdm(pages, total=steps, desc=name, unit="batch"))
            unseen = np.load(run / TRAINING_COUNTS_FILE)[scores.item] == 0
            models[name] = {
                "run": str(run),
                "image_feature": runs[name].image_feature,
                "seed": runs[name].seed,
                "all": measure(scores, split.negative_rate),
                "unseen_items": measure(scores.of_candidates(unseen), split.negative_rate),
            }
            _write_predictions(scores, unseen, dataset, output / PREDICTIONS / f"{name}.parquet")
        report = {
            "notice": manifest.notice,
            "data": str(args.data),
            "dataset_digest": manifest.digest(),
            "split": args.split,
            "pages": split.pages,
            "models": models,
        }
        (output / METRICS_FILE).write_text(json.dumps(_without_nan(report), indent=2) + "\n")
        text = _table(report)
        (output / TABLE_FILE).write_text(text + "\n")
        print(text)
    return f"wrote the report on {len(models)} models and {split.pages} {args.split} pages to {args.output}"


def _names(runs: Sequence[Path]) -> dict[str, Path]:
    """Rows of the report: directory names, or whole paths where those are equal."""
    names = [run.name for run in runs]
    unique = len(set(names)) == len(names)
    named = {(run.name if unique else str(run).replace("/", "_")): run for run in runs}
    if len(named) < len(runs):
        raise CommandError(f"--model: the same run twice: {', '.join(map(str, runs))}")
    return named


def _write_predictions(scores: Scores, unseen: np.ndarray, dataset: Dataset, path: Path) -> None:
    item_ids = dataset.items()["item_id"].combine_chunks()
    table = {
        "page_id": pa.array(scores.page_ids[scores.page].astype(str)),
        "item_id": item_ids.take(pa.array(scores.item)),
        "clicked": scores.clicked,
        "ctr": scores.ctr,
        "unseen_item": unseen,
    }
    pq.write_table(pa.table(table), path)


def _table(report: dict[str, Any]) -> str:
    """The report as aligned text."""
    header = ("model", "image feature", "AUC", "GAUC", "GAUC unseen", "log loss")
    rows = [header]
    for name, model in report["models"].items():
        every, unseen = model["all"], model["unseen_items"]
        figures = (every["auc"], every["gauc_page_mean"], unseen["gauc_page_mean"], every["log_loss"])
        rows.append((name, model["image_feature"], *(f"{figure:.4f}" for figure in figures)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    every, unseen = (model[part] for part in ("all", "unseen_items"))
    lines += [
        "",
        f"{report['split']} pages: {report['pages']}, {every['candidates']} candidates, {every['clicks']} clicks.",
        f"GAUC: mean AUC of the {every['pages']} pages with clicked and unclicked candidates.",
        f"GAUC unseen: the same over items on no training page, {unseen['candidates']} candidates on "
        f"{unseen['pages']} pages.",
    ]
    if report["notice"]:
        lines.append(f"notice: {report['notice']}")
    return "\n".join(lines)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: `None` where a metric is undefined."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    run_command(main)
