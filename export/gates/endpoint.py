"""A served version against the ranker that it was made from: one page, over gRPC and REST, and how long it takes."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError, about
from beam_pipelines.format.location import Location
from export.gates.loopback_server import loopback_server
from export.version.base_path import RANKER_METADATA_FILE, published_versions
from export.version.inputs import request_inputs
from export.version.reference_pages import scores_in_process
from export.version.request_rows import as_instances, complete, pad_rows, request_row
from models.artifact import METADATA_NAME
from models.ranker.run import RankerRun

_Ask = Callable[[], dict[str, np.ndarray]]
"""Asks for the page and returns its outputs."""

_REPEATS = 20  # requests behind each latency


class EndpointAnswers(NamedTuple):
    """What an endpoint answers for one page.

    Attributes:
        version: the version that answers.
        notice: on the data that the ranker learned from.
        page: as a REST request has it.
        scores: by way of asking, click probabilities in the order of the page; the ranker's own are `in process`.
        largest_difference: of the endpoint's scores from the ranker's.
        latency_ms: by way of asking, the median of a few requests.
    """

    version: int | None
    notice: str
    page: dict[str, Any]
    scores: dict[str, list[float]]
    largest_difference: float
    latency_ms: dict[str, float]


def ask_endpoint(model: Location | str, base_path: Path) -> EndpointAnswers:
    """Starts a server on an exported ranker, asks for one page and stops it.

    Args:
        model: the ranker's run directory, or its URI.
        base_path: the directory of its versions.

    Raises:
        ArtifactError: there is no version, or the newest was made from another ranker.
        VersionError: it is not served.
    """
    with about("model"):
        run = RankerRun(model)
    versions = published_versions(base_path)
    if not versions:
        raise ArtifactError(f"`base_path`: no version under {base_path}; export.saved_model makes one")
    exported = versions[max(versions)] / RANKER_METADATA_FILE
    if not exported.is_file() or exported.read_text() != run.file(METADATA_NAME).read_text():
        raise ArtifactError(f"`model`: version {max(versions)} in {base_path} was made from another ranker")
    with about("model"):
        record = max(run.example_records(), key=len)  # the page with the longest histories
        ids = run.row_ids()
        with tf.device("CPU:0"):  # like the server
            ranker = run.ranker()
            expected = scores_in_process(ranker, [record])[0]
    row = request_row(record, ids, ranker.config.features.candidate or {})
    tensors = complete(pad_rows([row]), request_inputs(ranker))
    examples = {"examples": np.array([record], object)}
    with loopback_server(base_path) as server:
        clients: dict[str, _Ask] = {
            "gRPC": lambda: server.ask_grpc("serving_default", tensors),
            "REST": lambda: server.ask_rest("serving_default", as_instances(tensors)),
            "gRPC tf_example": lambda: server.ask_grpc("tf_example", examples),
        }
        answers = {name: ask()["ctr"][0, : len(expected)] for name, ask in clients.items()}
        latencies = {name: _median_milliseconds(ask) for name, ask in clients.items()}
    difference = float(np.max([np.abs(scores - expected).max(initial=0.0) for scores in answers.values()]))
    return EndpointAnswers(
        version=server.listening.version,
        notice=run.metadata.notice,
        page=row,
        scores={name: scores.tolist() for name, scores in {**answers, "in process": expected}.items()},
        largest_difference=difference,
        latency_ms=latencies,
    )


def _median_milliseconds(ask: _Ask) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 2)
