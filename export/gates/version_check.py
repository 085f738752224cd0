"""What a version must answer, in a process that has nothing but TensorFlow, before it is published."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError
from export.gates import session_replay
from export.version.inputs import RequestInput
from export.version.recorded_requests import read_golden, read_warmup
from export.version.reference_pages import MAX_DIFFERENCE, ReferencePages
from export.version.request_rows import UNKNOWN_ID, pad_rows

_TOGETHER = 8
"""Pages that are asked for alone and together."""

_EXAMPLE_VALUES = {"string": "gold ring", "float32": 7.0, "int64": 0}
"""Of features of new items, by type."""

Outputs = dict[str, np.ndarray]


class Request(NamedTuple):
    """A request to a SavedModel.

    Attributes:
        what: which one, for people.
        signature: its name.
        inputs: by name.
    """

    what: str
    signature: str
    inputs: Mapping[str, np.ndarray]


class VersionError(InputError):
    """A version that must not be published; the message is what it answered wrongly."""


class Gate(NamedTuple):
    """One condition that a version must meet.

    Attributes:
        name: of the condition.
        requests: what to ask for.
        check: takes the answers in the order of the requests, raises `VersionError`, and returns what to print.
    """

    name: str
    requests: list[Request]
    check: Callable[[list[Outputs]], str]


class Replay(NamedTuple):
    """What came of requests, see `session_replay`."""

    importable: list[str]
    load_error: str | None
    answers: list[Outputs | str]
    seconds: list[float]


def replay(version: Path, requests: Sequence[Request]) -> Replay:
    """Asks a SavedModel, in a process of its own, without our code.

    Raises:
        VersionError: it does not load, or the process could import our code, which would prove nothing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        requests_file, answers_file = Path(scratch, "requests"), Path(scratch, "answers")
        requests_file.write_bytes(pickle.dumps([(each.signature, dict(each.inputs)) for each in requests]))
        command = [sys.executable, "-I", session_replay.__file__, str(version), str(requests_file), str(answers_file)]
        # On the CPU, like the scores to compare with: a GPU rounds differently, and this process may hold its memory.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise VersionError(f"it does not run in a process of its own: {lines[-1]}")
        result = Replay(**pickle.loads(answers_file.read_bytes()))
    if result.importable:
        raise VersionError(f"the process can import {', '.join(result.importable)}")
    if result.load_error is not None:
        raise VersionError(f"it does not load: {result.load_error}")
    return result


def check(gate: Gate, answers: Sequence[Outputs | str]) -> str:
    """Checks what came of a gate's requests: all answers must be fit to be scores, and pass the gate.

    Returns:
        What to print.

    Raises:
        VersionError: an answer is an error or wrong.
    """
    outputs = []
    for request, answer in zip(gate.requests, answers, strict=True):
        if isinstance(answer, str):
            raise VersionError(f"{request.what}: {answer}")
        _check_scores(request, answer)
        outputs.append(answer)
    return gate.check(outputs)


def session_gates(version: Path, pages: ReferencePages, inputs: Mapping[str, RequestInput]) -> list[Gate]:
    """The gates that need the SavedModel alone.

    Args:
        version: the SavedModel, with its warm-up and golden requests.
        pages: to ask for.
        inputs: of the signature `serving_default`.
    """
    return [
        _warm_up_gate(version),
        _golden_gate(version),
        _batch_gate(pages.select(slice(_TOGETHER))),
        _edge_gate(max(pages.rows, key=lambda row: len(row["item_id"])), inputs),
        _nan_gate(pages.rows[0], inputs),
    ]


def largest_difference(what: str, answer: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Compares answers with scores.

    Args:
        what: which ones, for people.
        answer: outputs.
        expected: the same outputs, of equal shapes.

    Returns:
        The largest difference: of scores of 1 and more, such as seconds, in proportion to them.

    Raises:
        VersionError: it is larger than `MAX_DIFFERENCE`.
    """
    if answer.keys() != expected.keys():
        raise VersionError(f"{what}: outputs {', '.join(sorted(answer))} instead of {', '.join(sorted(expected))}")
    largest = 0.0
    for name, scores in expected.items():
        if answer[name].shape != scores.shape:
            raise VersionError(f"{what}: {name} of shape {answer[name].shape} instead of {scores.shape}")
        difference = float((np.abs(answer[name] - scores) / np.maximum(np.abs(scores), 1)).max(initial=0.0))
        if not difference <= MAX_DIFFERENCE:
            raise VersionError(f"{what}: {name} is off by {difference:.1e}")
        largest = max(largest, difference)
    return largest


def _warm_up_gate(version: Path) -> Gate:
    requests = [Request(f"request {n}", *request) for n, request in enumerate(read_warmup(version))]

    def verify(answers: list[Outputs]) -> str:
        if not answers:
            raise VersionError("it has no warm-up requests")
        return f"{len(answers)} requests replayed"

    return Gate("warm-up", requests, verify)


def _golden_gate(version: Path) -> Gate:
    golden = read_golden(version)
    requests = [Request(f"request {n} ({each.signature})", *each[:2]) for n, each in enumerate(golden)]

    def verify(answers: list[Outputs]) -> str:
        if not answers:
            raise VersionError("it has no golden requests")
        largest = max(
            largest_difference(request.what, answer, each.outputs)
            for request, answer, each in zip(requests, answers, golden, strict=True)
        )
        return f"{len(answers)} requests replayed to the recorded scores, largest difference {largest:.1e}"

    return Gate("golden requests", requests, verify)


def _batch_gate(scored: ReferencePages) -> Gate:
    """Pages alone, together, and together the other way round."""
    pages = list(range(len(scored.rows)))
    orders = [*([n] for n in pages), pages, pages[::-1]]
    requests = []
    for order in orders:
        inputs = pad_rows([scored.rows[n] for n in order])
        requests.append(Request(f"serving_default of pages {order}", "serving_default", inputs))
    for order in orders:
        examples = np.array([scored.records[n] for n in order], object)
        requests.append(Request(f"tf_example of pages {order}", "tf_example", {"examples": examples}))

    def verify(answers: list[Outputs]) -> str:
        largest = 0.0
        for start in (0, len(orders)):
            alone = answers[start : start + len(pages)]
            for number in range(start + len(pages), start + len(orders)):
                for row, page in enumerate(orders[number - start]):
                    got = {name: values[row, : alone[page][name].shape[1]] for name, values in answers[number].items()}
                    expected = {name: values[0] for name, values in alone[page].items()}
                    what = f"{requests[number].what}: page {page} against page {page} alone"
                    largest = max(largest, largest_difference(what, got, expected))
        return f"{len(pages)} pages alone and together, largest difference {largest:.1e}"

    return Gate("rows independent of batch mates", requests, verify)


def _edge_gate(row: dict[str, Any], inputs: Mapping[str, RequestInput]) -> Gate:
    """Empty and absent histories, unknown IDs, new items, and nothing at all."""
    optional = [name for name, each in inputs.items() if not each.required]
    histories = [name for name, each in inputs.items() if each.per not in ("page", "candidate")]
    candidates = len(row["item_id"])
    without_histories = {**row, **{name: [] for name in histories}}
    missing = {
        name: each.missing if each.per == "page" else [each.missing] * candidates
        for name, each in inputs.items()
        if name in optional and name not in histories
    }
    unknown: dict[str, Any] = {name: [UNKNOWN_ID] * len(row[name]) for name in histories if name.endswith("_item_id")}
    unknown |= {"user_id": UNKNOWN_ID, "item_id": [UNKNOWN_ID] * candidates}
    new_item_features = {
        name: [_EXAMPLE_VALUES[each.dtype.name]] * candidates for name, each in inputs.items() if each.of_new_items
    }
    pages = {
        "a page": row,
        "known items with features of new ones": {**row, **new_item_features},
        "a page of empty histories": without_histories,
        "a page without histories": _without(row, histories),
        "a page of what is missing": {**without_histories, **missing},
        "a page without all that may be left out": _without(row, optional),
        "a page of unknown IDs": {**row, **unknown},
        "a page of new items": {**row, **unknown, **new_item_features},
        "a page without candidates": {
            name: [] if inputs[name].per == "candidate" else value for name, value in row.items()
        },
    }
    requests = [Request(what, "serving_default", pad_rows([page])) for what, page in pages.items()]
    empty = {name: value[:0] for name, value in pad_rows([row]).items()}
    requests.append(Request("no pages", "serving_default", empty))
    requests.append(Request("no page records", "tf_example", {"examples": np.zeros(0, object)}))

    def verify(answers: list[Outputs]) -> str:
        answered = dict(zip(pages, answers, strict=False))
        for what, same in (
            ("known items with features of new ones", "a page"),
            ("a page without histories", "a page of empty histories"),
            ("a page without all that may be left out", "a page of what is missing"),
        ):
            largest_difference(f"{what}, against {same}", answered[what], answered[same])
        return f"{len(requests)} requests: histories, unknown IDs, new items, pages of nothing"

    return Gate("empty, absent and unknown", requests, verify)


def _nan_gate(row: dict[str, Any], inputs: Mapping[str, RequestInput]) -> Gate:
    """Numbers that are none are missing ones: no score follows them."""
    candidates = len(row["item_id"])
    numbers = [name for name, each in inputs.items() if each.dtype.is_floating]
    new = {**row, "item_id": [UNKNOWN_ID] * candidates}
    missing = {name: [float(inputs[name].missing)] * candidates for name in numbers}
    requests = [Request("numbers that are missing", "serving_default", pad_rows([{**new, **missing}]))]
    for text in ("nan", "inf", "-inf"):
        numbers_row = {**new, **{name: [float(text)] * candidates for name in numbers}}
        requests.append(Request(f"numbers that are {text}", "serving_default", pad_rows([numbers_row])))

    def verify(answers: list[Outputs]) -> str:
        for request, answer in zip(requests, answers, strict=True):
            largest_difference(f"{request.what}, against missing ones", answer, answers[0])
        return f"{len(numbers)} numbers of NaN and infinity, scored as missing ones"

    return Gate("NaN", requests, verify)


def _without(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _check_scores(request: Request, outputs: Outputs) -> None:
    """Refuses what cannot be scores, whatever the ranker."""
    pages = len(next(iter(request.inputs.values())))
    item_ids = request.inputs.get("item_id")
    for name, scores in outputs.items():
        expected = (pages, scores.shape[-1]) if item_ids is None else item_ids.shape
        if scores.shape != expected:
            raise VersionError(f"{request.what}: {name} of shape {scores.shape} instead of {expected}")
        if not np.isfinite(scores).all():
            raise VersionError(f"{request.what}: {(~np.isfinite(scores)).sum()} values of {name} are not finite")
        if (scores < 0).any() or (name in ("ctr", "ctcvr", "long_visit") and (scores > 1).any()):
            raise VersionError(f"{request.what}: {name} out of range")
        if item_ids is not None and (scores[item_ids == b""] != 0).any():
            raise VersionError(f"{request.what}: padded candidates with a {name} other than 0")
