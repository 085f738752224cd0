"""The model card of a retrieval version: what it was made from, what it finds, what it reads and needs."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_pipelines.format.text_file import write_json
from export.retrieval.item_index import IndexKind, ScannSettings
from export.retrieval.served_vectors import ServedVectors
from export.version.inputs import RequestInput
from export.version.model_card import CARD_JSON, CARD_MARKDOWN
from models.retrieval.run import RetrievalRun

_NEEDS = {
    "brute_force": "any TensorFlow Serving",
    "scann": "a TensorFlow Serving that is built with ScaNN's operations (google/tf-serving-scann)",
}


def write_retrieval_card(
    version: Path,
    run: RetrievalRun,
    inputs: Mapping[str, RequestInput],
    vectors: ServedVectors,
    k: int,
    index: IndexKind,
    settings: ScannSettings,
    recall: float,
) -> None:
    """Writes the card, as JSON and for people.

    Args:
        version: the SavedModel's directory.
        run: the retriever.
        inputs: of the signature `serving_default`.
        vectors: what is served.
        k, index, settings: how many candidates are found, and how.
        recall: of the index against all items.
    """
    metadata = run.metadata
    card: dict[str, Any] = {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "retriever": metadata.digest(),
        "method": metadata.method,
        "notice": metadata.notice,
        "train": None if metadata.window is None else metadata.window.model_dump(),
        "items": len(vectors.item_ids),
        "users": len(vectors.user_ids),
        "features": [
            [source.model_dump(include={"name", "dim", "sha256"}) for source in each] for each in metadata.features
        ],
        "validation": metadata.validation,
        "test": metadata.test,
        "candidates": k,
        "index": {
            "kind": index,
            **(settings._asdict() if index == "scann" else {}),
            "recall": recall,
            "needs": _NEEDS[index],
        },
        "inputs": {name: each.description for name, each in inputs.items()},
        "limits": _limits(vectors),
    }
    write_json(version / CARD_JSON, card)
    (version / CARD_MARKDOWN).write_text(_markdown(card))


def _limits(vectors: ServedVectors) -> list[str]:
    limits = ["items that are not in its table are not found; publish anew with a table that has them"]
    if vectors.tower is None:
        limits.append("an unknown user has no candidates, and what users have done since training is not read")
    else:
        limits.append("a user without histories has the candidates of an empty history")
    return limits


def _markdown(card: Mapping[str, Any]) -> str:
    metrics = [
        f"| {part} | " + " | ".join(f"{card[part][name]:.4f}" for name in ("recall@20", "recall@50", "ndcg@50")) + " |"
        for part in ("validation", "test")
        if card[part] is not None
    ]
    index = ", ".join(f"{name} {value}" for name, value in card["index"].items() if name not in ("kind", "needs"))
    lines = [
        f"# Retrieval by {card['method']}",
        "",
        *([f"Notice: {card['notice']}.", ""] if card["notice"] else []),
        f"{card['items']} items, {card['users']} users, {card['candidates']} candidates by {card['index']['kind']} "
        f"({index}). Made {card['made']}; retriever {card['retriever']}.",
        "",
        f"It runs on {card['index']['needs']}.",
        "",
        "| interactions | recall@20 | recall@50 | ndcg@50 |",
        "| --- | --- | --- | --- |",
        *metrics,
        "",
        "## Inputs",
        "",
        *(f"- `{name}`: {text}" for name, text in card["inputs"].items()),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in card["limits"]),
        "",
    ]
    return "\n".join(lines)
