"""What a version must answer before it is published."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export import session_replay
from export.example_pages import MAX_DIFFERENCE, NUMBER_TYPES, pad_rows
from export.warmup import read_warmup

_ALONE = 8
"""Pages that are also asked for one by one."""


Request = tuple[str, dict[str, np.ndarray]]
"""Signature and inputs."""


class VersionError(Exception):
    """A version that must not be published; says what it answered wrongly."""


def check_version(
    version: Path, rows: Sequence[dict[str, Any]], records: Sequence[bytes], expected: Sequence[np.ndarray]
) -> float:
    """Asks a SavedModel for pages, in a process of its own, and compares its answers.

    Args:
        version: the SavedModel.
        rows, records: the same pages as requests and as page records.
        expected: their scores in process.

    Returns:
        The largest difference from `expected`.

    Raises:
        VersionError: it does not load, fails, or answers wrongly.
    """
    requests = check_requests(rows, records)
    requests |= {f"warm-up request {n}": request for n, request in enumerate(read_warmup(version))}
    answers = _replay(version, list(requests.values()))
    return check_answers(requests, dict(zip(requests, answers, strict=True)), expected)


def check_requests(rows: Sequence[dict[str, Any]], records: Sequence[bytes]) -> dict[str, Request]:
    """What a version is asked: name to request. Arguments as in `check_version`."""
    per_candidate = [name for name in rows[0] if name == "item_id" or name in NUMBER_TYPES]
    empty = {
        name: [] if isinstance(value, list) and name not in per_candidate else value for name, value in rows[0].items()
    }
    strange = {**rows[0], "user_id": "\x00no such user", **{name: rows[0][name][:1] for name in per_candidate}}
    strange["item_id"] = ["\x00no such item"]
    return {
        "all pages": ("serving_default", pad_rows(rows)),
        "all page records": ("tf_example", {"examples": np.array(records, object)}),
        **{f"page {n} alone": ("serving_default", pad_rows([row])) for n, row in enumerate(rows[:_ALONE])},
        "a page without histories": ("serving_default", pad_rows([empty])),
        "a page without candidates": ("serving_default", pad_rows([{**empty, **{name: [] for name in per_candidate}}])),
        "a page of unknown IDs": ("serving_default", pad_rows([strange])),
    }


def check_answers(
    requests: Mapping[str, Request], answers: Mapping[str, np.ndarray], expected: Sequence[np.ndarray]
) -> float:
    """Compares the scores that answer `check_requests` with those in process; see `check_version`."""
    for what, (_, inputs) in requests.items():
        _check_scores(what, inputs, answers[what])
    largest = 0.0
    for n, scores in enumerate(expected):
        got = {what: answers[what][n] for what in ("all pages", "all page records")}
        if n < _ALONE:
            got[f"page {n} alone"] = answers[f"page {n} alone"][0]
        for what, answer in got.items():
            difference = float(np.abs(answer[: len(scores)] - scores).max(initial=0.0))
            if not difference <= MAX_DIFFERENCE:
                raise VersionError(f"{what}: page {n} is off by {difference:.1e} from the ranker in process")
            largest = max(largest, difference)
        if answers["all page records"][n][len(scores) :].any():
            raise VersionError(f"all page records: padded candidates of page {n} with a score other than 0")
    return largest


def _check_scores(what: str, inputs: Mapping[str, np.ndarray], scores: np.ndarray) -> None:
    pages = len(next(iter(inputs.values())))
    expected = inputs["item_id"].shape if "item_id" in inputs else (pages, scores.shape[-1])
    if scores.shape != expected:
        raise VersionError(f"{what}: scores of shape {scores.shape} instead of {expected}")
    if not np.isfinite(scores).all():
        raise VersionError(f"{what}: {(~np.isfinite(scores)).sum()} scores are not finite")
    if ((scores < 0) | (scores > 1)).any():
        raise VersionError(f"{what}: scores outside [0, 1]")
    if "item_id" in inputs and (scores[inputs["item_id"] == b""] != 0).any():
        raise VersionError(f"{what}: padded candidates with a score other than 0")


def _replay(version: Path, requests: list[Request]) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as scratch:
        requests_file, answers_file = Path(scratch, "requests"), Path(scratch, "answers")
        requests_file.write_bytes(pickle.dumps(requests))
        command = [sys.executable, "-I", session_replay.__file__, str(version), str(requests_file), str(answers_file)]
        # On the CPU, like the scores to compare with: a GPU rounds differently, and this process may hold its memory.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise VersionError(f"it does not run in a process of its own: {lines[-1]}")
        return [answer["ctr"] for answer in pickle.loads(answers_file.read_bytes())]
