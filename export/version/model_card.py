"""The model card of a version: what it was made from, how good it is, what it reads, and what it cannot do."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.local_copy import local_copy
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import Manifest, Window
from beam_pipelines.format.text_file import read_json, write_json
from export.version.inputs import RequestInput
from models.embeddings.embeddings import EmbeddingsMetadata
from models.evaluation.comparison import METRICS
from models.features.number_scale import LARGEST, LARGEST_COUNT, NumberScale
from models.features.spec import IdFeature, NumberFeature, TableFeature
from models.ranker.ranker import Ranker
from models.ranker.run import TRAINING_COUNTS_FILE, RankerMetadata, RankerRun

CARD_JSON = "assets.extra/model_card.json"
CARD_MARKDOWN = "assets.extra/model_card.md"

_COUNTS = ("pages", "users", "candidates", "clicks")


def read_report(report: Location, run: RankerRun) -> dict[str, Any]:
    """The part of a report of `models.evaluate` that is about a ranker.

    Args:
        report: the report's directory, or its URI, or its `metrics.json` on this machine.
        run: the ranker's run.

    Returns:
        `split`, `dataset_digest`, `notice`; `level` of the intervals; `all` and `unseen_items`: metrics with
        intervals; `slices`: title to `value`, counts, metrics and intervals of each.

    Raises:
        ArtifactError: there is no report, or this ranker is not in it.
    """
    directory = local_copy(report, only=["metrics.json"])
    file = directory / "metrics.json" if directory.is_dir() else directory
    try:
        measured = read_json(file)
        models, systems = measured["models"], measured["systems"]
    except (InputError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} is no report; models.evaluate makes it") from error
    name = next((name for name, model in models.items() if model.get("digest") == run.metadata.digest()), None)
    if name is None:
        raise ArtifactError(f"{file} does not measure {run.path} as it is now; run models.evaluate on it")
    slices = {}
    # Slices are of systems: of a ranker's own if no other seed is averaged with it.
    system = next(system for system, each in systems.items() if name in each["models"])
    if len(systems[system]["models"]) == 1:
        slices = {
            title: [
                {
                    "value": each["value"],
                    **{count: each[count] for count in _COUNTS},
                    **_figures(each["systems"][system]),
                }
                for each in values
            ]
            for title, values in measured["slices"].items()
        }
    return {
        **{key: measured[key] for key in ("split", "dataset_digest", "notice", "level")},
        **{
            part: {**{count: models[name][part][count] for count in _COUNTS}, **_figures(models[name][part])}
            for part in ("all", "unseen_items")
        },
        "slices": slices,
    }


def model_card(
    run: RankerRun,
    ranker: Ranker,
    inputs: Mapping[str, RequestInput],
    manifest: Manifest | None,
    report: dict[str, Any] | None,
) -> dict[str, Any]:
    """Puts a card together from what is on disk, and nothing else.

    Args:
        run: the ranker's run.
        ranker: the ranker.
        inputs: of the signature `serving_default`.
        manifest: of the dataset that it learned on; `None` if it is not at hand.
        report: from `read_report`.
    """
    metadata = run.metadata
    embeddings = _embeddings(metadata)
    digests = {
        "dataset": metadata.dataset_digest,
        "ranker": metadata.digest(),
        "ranker_weights": file_sha256(run.weights_file()),
    }
    for number, each in enumerate(embeddings):
        suffix = f"_{number}" if number else ""
        digests |= {
            f"encoder_weights{suffix}": each.encoder.weights_sha256,
            f"embeddings{suffix}": each.embeddings_sha256,
        }
    if metadata.clusters is not None:
        digests |= {
            "cluster_centers": metadata.clusters.centers_sha256,
            "cluster_ids": metadata.clusters.cluster_ids_sha256,
        }
        if metadata.clusters.deeper is not None:
            digests |= {
                "deeper_cluster_centers": metadata.clusters.deeper.centers_sha256,
                "deeper_cluster_ids": metadata.clusters.deeper.ids_sha256,
            }
    data: dict[str, Any] = {
        "notice": metadata.notice,
        "train": _window(metadata.window),
        "negative_rate": metadata.negative_rate,
        "items": ranker.sizes.items,
        "users": ranker.sizes.users,
    }
    windows = [each.encoder.window for each in embeddings if each.encoder.window is not None]
    if windows:
        data["encoder"] = _window(max(windows, key=lambda window: window.last))
    if manifest is not None:
        split = manifest.splits["train"]
        data |= {"pages": split.pages, "impressions": split.impressions, "clicks": split.clicks}
    return {
        "image_feature": metadata.image_feature,
        "seed": metadata.seed,
        "outputs": ranker.outputs,
        "data": data,
        "validation": {key: value for key, value in metadata.validation.items() if isinstance(value, int | float)},
        "report": report,
        "digests": digests,
        "inputs": _inputs(inputs),
        "table_features": {
            table: {column: _feature_text(feature, sizes[column]) for column, feature in (features or {}).items()}
            for table, features, sizes in (
                ("items", ranker.config.features.item, ranker.sizes.item),
                ("users", ranker.config.features.user, ranker.sizes.user),
            )
        },
        "numbers": _numbers(ranker),
        "limits": _limits(run, ranker),
    }


def write_card(version: Path, card: dict[str, Any]) -> None:
    """Adds a card to a SavedModel, as JSON and as Markdown."""
    (version / CARD_JSON).parent.mkdir(exist_ok=True)
    write_json(version / CARD_JSON, card)
    (version / CARD_MARKDOWN).write_text(_markdown(card))


def _feature_text(feature: TableFeature, size: int) -> str:
    if isinstance(feature, NumberFeature):
        return f"number, {feature.transform}"
    counted = {"id": f"{size} known", "category": f"{size} known values", "hash": f"{size} buckets"}
    return ", ".join(filter(None, [feature.type, counted.get(feature.type)]))


def _numbers(ranker: Ranker) -> list[dict[str, Any]]:
    """The scale of each number, and what training has seen of it."""
    return [
        {
            "of": section,
            "name": name,
            **scale.model_dump(include={"mean", "deviation", "low", "high", "seen", "missing", "clipped"}),
        }
        for section in ("item", "user", "candidate")
        for name, scale in (getattr(ranker.vocabulary, section) if ranker.vocabulary else {}).items()
        if isinstance(scale, NumberScale)
    ]


def _inputs(inputs: Mapping[str, RequestInput]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": each.dtype.name,
            "shape": ["pages"]
            if each.per == "page"
            else ["pages", "candidates" if each.per == "candidate" else "steps"],
            "says": each.description,
            "required": each.required,
            "missing": _missing(each),
            "of_new_items": each.of_new_items,
        }
        for name, each in inputs.items()
    ]


def _missing(each: RequestInput) -> str | int | float | None:
    """What stands for a value that is not known; JSON has no NaN."""
    if each.required:
        return None
    return "NaN" if each.missing != each.missing else each.missing


def _limits(run: RankerRun, ranker: Ranker) -> list[str]:
    """What to know before use; each sentence follows from the run's files."""
    metadata, lengths, sizes = run.metadata, ranker.config.lengths, ranker.sizes
    limits = []
    if metadata.notice:
        limits.append(f"The data it learned from: {metadata.notice.rstrip('.')}.")
    if run.file(TRAINING_COUNTS_FILE).is_file():
        unseen = int((run.training_counts() == 0).sum())
        limits.append(
            f"{unseen} of the {sizes.items} items of its table are on no training page, as candidate or in a history."
        )
    id_feature = (ranker.config.features.item or {}).get("item_id")
    if isinstance(id_feature, IdFeature):
        limits.append(
            f"IDs of items on fewer than {id_feature.min_count} training candidates and history steps share one "
            "embedding: such items are told apart by their features alone."
        )
    limits.append(
        "Items and their features are those of the table at the time of training. What a request says of an item that "
        "the table has is not read."
    )
    limits.append(
        "An item that the table does not have is scored by what the request says of it, its ID being unknown."
    )
    if ranker.sizes.image_dims:
        kind = "semantic ID" if ranker.sizes.levels > 1 else "cluster"
        known = f", but for its {kind}" if ranker.sizes.clusters else ""
        limits.append(f"An item that the table does not have is scored as one without a picture{known}.")
    limits.append(
        f"Of histories, the newest {lengths.click} clicks, {lengths.pay} payments and {lengths.cart} cart additions "
        "are read."
    )
    limits.append(f"Page records (`tf_example`) are read up to {lengths.candidates} candidates.")
    limits.append(
        f"A number that is NaN, infinite or of a magnitude of {LARGEST:g} or more, and a count of a magnitude of "
        f"{LARGEST_COUNT:.0f} or more, is a missing one."
    )
    limits.append("The position of a candidate on the page is not an input.")
    if ranker.config.position_bias:
        limits.append("Probabilities are those of candidates at the first position, as training learned it.")
    if metadata.negative_rate < 1:
        limits.append(
            f"The training pages kept a share of {metadata.negative_rate:g} of the unclicked candidates; predictions "
            "are corrected for it."
        )
    if ranker.calibrator.kind == "none":
        limits.append("Probabilities are not calibrated.")
    else:
        limits.append(
            f"Probabilities are calibrated ({ranker.calibrator.kind}) on the validation pages, so that the validation "
            "figures of calibration and log loss are of pages that it has been fitted on."
        )
    return limits


def _figures(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "metrics": {name: measured[name] for name in METRICS},
        "intervals": {name: measured["intervals"][name] for name in METRICS},
    }


def _embeddings(metadata: RankerMetadata) -> list[EmbeddingsMetadata]:
    """The embeddings that a ranker's pictures come from, those behind its clusters last."""
    given = metadata.embeddings
    found = [] if given is None else [given] if isinstance(given, EmbeddingsMetadata) else [*given]
    if metadata.clusters is not None and metadata.clusters.embeddings not in found:
        found.append(metadata.clusters.embeddings)
    return found


def _window(window: Window) -> dict[str, Any]:
    moments = {
        key: datetime.datetime.fromtimestamp(value / 1000, datetime.UTC).isoformat(timespec="seconds")
        for key, value in (("first", window.first), ("last", window.last))
    }
    return {"first_ms": window.first, "last_ms": window.last, **moments}


def _markdown(card: dict[str, Any]) -> str:
    data = card["data"]
    lines = [
        "# Ranker",
        "",
        f"Image feature `{card['image_feature']}`, seed {card['seed']}; predicts {', '.join(card['outputs'])}.",
    ]
    lines += ["", "## Data", ""]
    if data["notice"]:
        lines.append(f"- Notice: {data['notice']}")
    lines.append(f"- Training pages from {data['train']['first']} to {data['train']['last']}")
    if "encoder" in data:
        lines.append(f"- Encoder's pages from {data['encoder']['first']} to {data['encoder']['last']}")
    for key in ("pages", "impressions", "clicks", "items", "users", "negative_rate"):
        if key in data:
            lines.append(f"- {key.replace('_', ' ')}: {data[key]}")
    lines += ["", "## Metrics", "", "On the validation pages, by which its epoch was chosen:", ""]
    lines += _table(("metric", "value"), [(name, _number(value)) for name, value in card["validation"].items()])
    report = card["report"]
    if report is None:
        lines += ["", "No report was given at export: nothing is known of other pages."]
    else:
        lines += _report_lines(report)
    lines += [
        "",
        "## Digests",
        "",
        *_table(("of", "SHA-256"), [(k.replace("_", " "), f"`{v}`") for k, v in card["digests"].items()]),
    ]
    lines += [
        "",
        "## Features",
        "",
        "Inputs of `serving_default`. What is not required may be left out over gRPC; over REST, TensorFlow Serving "
        "wants all of them, which may be empty.",
        "",
    ]
    lines += _table(
        ("input", "type", "shape", "missing", "required", "read"),
        [
            (
                f"`{each['name']}`",
                each["type"],
                f"({', '.join(each['shape'])})",
                "" if each["required"] else f"`{json.dumps(each['missing'])}`".replace('"NaN"', "NaN"),
                "yes" if each["required"] else "no",
                each["says"] + (" (of items that the table does not have)" if each["of_new_items"] else ""),
            )
            for each in card["inputs"]
        ],
    )
    lines += ["", "Columns that it reads of its own tables, by row:", ""]
    columns = [
        (table, f"`{column}`", text)
        for table, features in card["table_features"].items()
        for column, text in features.items()
    ]
    lines += _table(("table", "column", "read as"), columns)
    lines += _number_lines(card["numbers"]) if card["numbers"] else []
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card["limits"]), ""]
    return "\n".join(lines)


def _number_lines(numbers: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ("of", "number", "from", "to", "mean", "deviation", "values", "missing", "clipped")
    rows = [
        (
            each["of"],
            f"`{each['name']}`",
            *("n/a" if each[key] is None else f"{each[key]:.6g}" for key in ("low", "high", "mean", "deviation")),
            *(str(each[key]) for key in ("seen", "missing", "clipped")),
        )
        for each in numbers
    ]
    return [
        "",
        "Numbers are clipped to the range that training has seen, but for outliers, and then transformed; mean and "
        "deviation are those of what is standardised: the logarithm, where that is the transform. Training has seen:",
        "",
        *_table(head, rows),
    ]


def _report_lines(report: dict[str, Any]) -> list[str]:
    head = ("candidates", "GAUC (page mean)", "AUC", "log loss", "COPC")
    rows = [(title, *_cells(report[part])) for title, part in (("all", "all"), ("unseen items", "unseen_items"))]
    lines = ["", f"On {report['split']} pages, with {report['level']:.0%} intervals (bootstrap over users):", ""]
    lines += _table(("items", *head), rows)
    for title, values in report["slices"].items():
        lines += ["", *_table((title, *head), [(each["value"], *_cells(each)) for each in values])]
    return lines


def _cells(figures: Mapping[str, Any]) -> list[str]:
    cells = [str(figures["candidates"])]
    for name in ("gauc_page_mean", "auc", "log_loss", "copc"):
        low, high = figures["intervals"][name]
        cells.append(f"{_number(figures['metrics'][name])} [{_number(low)}, {_number(high)}]")
    return cells


def _number(value: float | None) -> str:
    if value is None or value != value:
        return "n/a"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"
