"""Train / serve skew: what clients get for logged pages, against the ranker reading them as in training."""

import base64
from collections.abc import Mapping

import numpy as np

from export.gates.loopback_server import LoopbackServer
from export.gates.version_check import largest_difference
from export.version.example_pages import ScoredPages, as_instances, complete, pad_rows
from export.version.inputs import RequestInput

_TOGETHER = 16


def check_skew(server: LoopbackServer, pages: ScoredPages, inputs: Mapping[str, RequestInput]) -> dict[str, float]:
    """Asks a server for pages through both signatures, over gRPC and REST.

    Args:
        server: the server.
        pages: what to ask for.
        inputs: of the signature `serving_default`.

    Returns:
        By way of asking, the largest difference.

    Raises:
        VersionError: a score differs.
        CommandError: the server answers with an error.
    """
    largest = dict.fromkeys(("gRPC serving_default", "REST serving_default", "gRPC tf_example", "REST tf_example"), 0.0)
    for start in range(0, len(pages.rows), _TOGETHER):
        some = pages.some(slice(start, start + _TOGETHER))
        tensors = complete(pad_rows(some.rows), inputs)
        encoded = [{"b64": base64.b64encode(record).decode()} for record in some.records]
        answers = {
            "gRPC serving_default": server.ask_grpc("serving_default", tensors),
            "REST serving_default": server.ask_rest("serving_default", as_instances(tensors)),
            "gRPC tf_example": server.ask_grpc("tf_example", {"examples": np.array(some.records, object)}),
            "REST tf_example": server.ask_rest("tf_example", encoded),
        }
        for way, answer in answers.items():
            room = next(iter(answer.values())).shape[1]  # `tf_example` has it for so many candidates
            for n, outputs in enumerate(some.outputs):
                expected = {name: values[:room] for name, values in outputs.items()}
                got = {name: values[n, : len(expected[name])] for name, values in answer.items()}
                largest[way] = max(largest[way], largest_difference(f"{way}, page {start + n}", got, expected))
    return largest
