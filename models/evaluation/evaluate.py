"""Measures rankers on pages, and compares them."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.format.text_file import finite
from beam_pipelines.shell.progress import progress_bar, warn
from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead
from models.data.pages import GROUPS, Pages, parse_pages
from models.evaluation.contenders import Contender, check_dataset, contenders, systems_of
from models.evaluation.report import evaluation_report, write_report
from models.evaluation.scored_pages import TASKS, ScoredPages, score_pages
from models.evaluation.slices import Slices, by_category, by_count, by_flag, by_item_age

if TYPE_CHECKING:
    from models.evaluation.contenders import Models

_PREDICTIONS = "predictions"
_PARSE_BATCH = 1024


def evaluate(
    data: Location | str | Dataset | Pages,
    models: Models,
    *,
    split: str = "test",
    output: Location | str | None = None,
    overwrite: bool = False,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Scores pages with rankers, measures and compares them.

    Args:
        data: a dataset or its directory, or some of its pages.
        models: runs of `train_ranker`, their directories, or rankers: one, several, or several by name, as a mapping or
            as pairs. Those of one name are averaged; without names, runs that differ in nothing but the seed. The
            others are compared with the first.
        split: which pages of a dataset: `pretrain`, `train` or `test`.
        output: directory to write `metrics.json`, `table.txt`, `report.html` and `predictions/NAME.parquet` to; `None`
            writes nothing.
        overwrite: whether an `output` that exists is replaced.
        batch_size: pages that are scored at once.

    Returns:
        What `metrics.json` holds: `notice`, `data`, `dataset_digest`, `split`, the number of `pages`, and what
        `evaluation_report` says, with `run`, `digest`, `image_feature` and `seed` of each of the `models`. `None` where
        a figure is undefined.

    Raises:
        ArtifactError: `data` has no such pages; a run is missing, damaged, of another dataset, or predicts NaN; there
            is an `output` already.
        InputError: `models` has the same run or name twice.

    Example:
        >>> report = evaluate(later, {"with pictures": ranker, "without": "artifacts/rankers/none"})
        >>> report["systems"]["with pictures"]["all"]["gauc_page_mean"]
    """
    pages = data if isinstance(data, Pages) else (data if isinstance(data, Dataset) else Dataset(data)).pages(split)
    dataset = pages.dataset
    with about("models"):
        rankers = contenders(models)
        for contender in rankers.values():
            check_dataset(contender, dataset)
        systems = systems_of(rankers)
        unseen_items = ~np.logical_or.reduce([contender.seen_items(dataset) for contender in rankers.values()])
    inputs = [dataset.path, *(contender.run.path for contender in rankers.values() if contender.run)]
    with contextlib.ExitStack() as stack:
        if output is not None:
            scratch = stack.enter_context(whole_directory(as_location(output), overwrite=overwrite, inputs=inputs))
        with about("models"):
            scored = {name: _score(name, contender, pages, batch_size) for name, contender in rankers.items()}
        first = next(iter(scored.values()))
        if first.clicked.all() or not first.clicked.any():
            common = "are all clicked" if first.clicked.all() else "are all unclicked"
            warn(f"the candidates of the {len(pages)} {pages.split_name} pages {common}: AUC and GAUC are undefined")
        unseen = unseen_items[first.item]
        measured = evaluation_report(scored, unseen, _slices(pages, first, unseen), systems, pages.negative_rate)
        for name, contender in rankers.items():
            measured["models"][name] = contender.description() | measured["models"][name]
        report = finite(
            {
                "notice": dataset.manifest.notice,
                "data": str(dataset.path),
                "dataset_digest": dataset.manifest.digest(),
                "split": pages.split_name,
                "pages": len(pages),
                **measured,
            }
        )
        if output is not None:
            write_report(report, scratch)
            (scratch / _PREDICTIONS).mkdir()
            for name, predictions in scored.items():
                _write_predictions(predictions, unseen, dataset, scratch / _PREDICTIONS / f"{name}.parquet")
    return report


def _score(name: str, contender: Contender, pages: Pages, batch_size: int) -> ScoredPages:
    ranker = contender.ranker()
    lengths = ranker.config.lengths.model_copy(update={"candidates": pages.dataset.manifest.max_candidates})
    records = pages.records().batch(batch_size)
    batches = map_ahead(records, lambda serialized: parse_pages(serialized, lengths, to_longest=GROUPS))
    steps = math.ceil(len(pages) / batch_size)
    scored = score_pages(ranker, progress_bar(batches, total=steps, desc=name, unit="batch"))
    for output in ("ctr", *TASKS, "dwell"):
        values = getattr(scored, output)
        if values is not None and np.isnan(values).any():
            page = scored.page_ids[scored.page[np.isnan(values).argmax()]].decode()
            source = contender.description()["run"] or name
            raise ArtifactError(f"{source} gives NaN for {output} (the first on page {page}); train it again")
    return scored


def _slices(pages: Pages, scored: ScoredPages, unseen: np.ndarray) -> list[Slices]:
    items = pages.dataset.items()
    slices = [
        by_flag("training", ("seen in training", "unseen in training"), unseen),
        by_category(items, scored.item),
    ]
    if "published_at" in items.column_names:
        slices.append(by_item_age(items, scored.item, scored.timestamp))
    steps = _click_history_lengths(pages)[scored.page]
    return [*slices, by_count("click history", steps), by_count("position", scored.position)]


def _click_history_lengths(pages: Pages) -> np.ndarray:
    """Steps in the click history of each page, all of them whatever a ranker reads: int64 `(pages,)`."""
    spec = {"click_item": tf.io.RaggedFeature(tf.int64)}

    def lengths(serialized: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.io.parse_example(serialized, spec)["click_item"].row_lengths(), tf.int64)

    records = pages.records().batch(_PARSE_BATCH)
    return np.concatenate(list(map_ahead(records, lengths).as_numpy_iterator()))


def _write_predictions(scored: ScoredPages, unseen: np.ndarray, dataset: Dataset, path: Path) -> None:
    item_ids, user_ids = dataset.items()["item_id"].combine_chunks(), dataset.users()["user_id"].combine_chunks()
    table = {
        "page_id": pa.array(scored.page_ids[scored.page].astype(str)),
        "user_id": user_ids.take(pa.array(scored.user)),
        "item_id": item_ids.take(pa.array(scored.item)),
        "position": scored.position,
        "clicked": scored.clicked,
        "ctr": scored.ctr,
        "unseen_item": unseen,
    }
    table |= {name: getattr(scored, name) for name in (*TASKS, "dwell") if getattr(scored, name) is not None}
    pq.write_table(pa.table(table), path)
