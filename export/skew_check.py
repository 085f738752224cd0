"""Train / serve skew: what clients get for logged pages, against the ranker reading them as in training."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.example_pages import as_instances, complete, pad_rows
from export.loopback_server import LoopbackServer
from export.request_inputs import RequestInput
from export.version_check import Outputs, largest_difference

_TOGETHER = 16


def check_skew(
    server: LoopbackServer,
    rows: Sequence[dict[str, Any]],
    records: Sequence[bytes],
    expected: Sequence[Outputs],
    inputs: Mapping[str, RequestInput],
) -> dict[str, float]:
    """Asks a server for pages through both signatures, over gRPC and REST.

    Args:
        server: the server.
        rows, records: the same pages as requests and as page records.
        expected: by page, the outputs in process of each candidate.
        inputs: of the signature `serving_default`.

    Returns:
        By way of asking, the largest difference.

    Raises:
        VersionError: a score differs.
        CommandError: the server answers with an error.
    """
    largest = dict.fromkeys(("gRPC serving_default", "REST serving_default", "gRPC tf_example", "REST tf_example"), 0.0)
    for start in range(0, len(rows), _TOGETHER):
        pages = slice(start, start + _TOGETHER)
        tensors = complete(pad_rows(rows[pages]), inputs)
        examples = np.array(records[pages], object)
        encoded = [{"b64": base64.b64encode(record).decode()} for record in records[pages]]
        answers = {
            "gRPC serving_default": server.ask_grpc("serving_default", tensors),
            "REST serving_default": server.ask_rest("serving_default", as_instances(tensors)),
            "gRPC tf_example": server.ask_grpc("tf_example", {"examples": examples}),
            "REST tf_example": server.ask_rest("tf_example", encoded),
        }
        for way, answer in answers.items():
            for n, scores in enumerate(expected[pages]):
                width = next(iter(answer.values())).shape[1]  # `tf_example` has room for so many candidates
                known = {name: values[:width] for name, values in scores.items()}
                got = {name: values[n, : len(known[name])] for name, values in answer.items()}
                difference = largest_difference(f"{way}, page {start + n}", got, known)
                largest[way] = max(largest[way], difference)
    return largest
