"""Starts a server on an exported ranker, asks for one page and compares: `python -m export.endpoint_check`."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import about
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.records import HISTORIES
from beam_pipelines.shell.command import ArgumentParser, CommandError, require_directory, run_command
from export.gates.loopback_server import loopback_server
from export.saved_model import RANKER_METADATA_FILE
from export.version.base_path import published_versions
from export.version.example_pages import (
    MAX_DIFFERENCE,
    as_instances,
    complete,
    pad_rows,
    read_page_records,
    read_row_ids,
    request_row,
    scores_in_process,
)
from export.version.inputs import request_inputs
from models.artifact import METADATA_NAME, read_metadata
from models.ranker.run import RankerMetadata, load_ranker

_Ask = Callable[[], dict[str, np.ndarray]]
"""Asks for the page and returns its outputs."""

_REPEATS = 20  # requests behind each latency


def main(argv: Sequence[str] | None = None) -> str:
    """Checks the endpoint and returns the closing line."""
    parser = ArgumentParser("Serves an exported ranker, asks for one page over gRPC and REST, compares, and stops.")
    parser.add_argument("--base-path", type=Path, default=Path("artifacts/serving"), help="from export.saved_model")
    parser.add_argument("--model", type=Path, default=Path("artifacts/ranker"), help="the ranker to compare with")
    parser.add_argument("--output", type=Path, help="JSON file to write the result to (unset: it is only printed)")
    args = parser.parse_args(argv)

    require_directory(args.base_path, "--base-path", "export.saved_model")
    require_directory(args.model, "--model", "models.train_ctr")
    with about("model"):
        metadata = read_metadata(RankerMetadata, args.model, "models.train_ctr")
    versions = published_versions(args.base_path)
    if not versions:
        raise CommandError(f"--base-path: no version under {args.base_path}; export.saved_model makes one")
    exported = versions[max(versions)] / RANKER_METADATA_FILE
    if not exported.is_file() or exported.read_text() != (args.model / METADATA_NAME).read_text():
        raise CommandError(f"--model: version {max(versions)} in {args.base_path} was made from another ranker")
    record = max(read_page_records(args.model), key=len)  # the page with the longest histories
    with tf.device("CPU:0"):  # like the server
        ranker = load_ranker(args.model)
        expected = scores_in_process(ranker, [record])[0]
    row = request_row(record, read_row_ids(args.model), ranker.config.features.candidate)

    tensors = complete(pad_rows([row]), request_inputs(ranker))
    examples = {"examples": np.array([record], object)}
    with loopback_server(args.base_path) as server:
        clients: dict[str, _Ask] = {
            "gRPC": lambda: server.ask_grpc("serving_default", tensors),
            "REST": lambda: server.ask_rest("serving_default", as_instances(tensors)),
            "gRPC tf_example": lambda: server.ask_grpc("tf_example", examples),
        }
        answers = {name: ask()["ctr"][0, : len(expected)] for name, ask in clients.items()}
        latencies = {name: _median_milliseconds(ask) for name, ask in clients.items()}
        version = server.listening.version

    difference = float(np.max([np.abs(scores - expected).max(initial=0.0) for scores in answers.values()]))
    result = {
        "version": version,
        "notice": metadata.notice,
        "page": row,
        "scores": {**{name: scores.tolist() for name, scores in answers.items()}, "in process": expected.tolist()},
        "largest_difference": difference,
        "latency_ms": latencies,
    }
    print(_report(result), flush=True)
    if not difference <= MAX_DIFFERENCE:
        raise CommandError(
            f"the endpoint differs by {difference:.1e} from {args.model} (allowed: {MAX_DIFFERENCE:.0e})"
        )
    if args.output is not None:
        with whole_file(args.output) as scratch:
            scratch.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    where = f", written to {args.output}" if args.output is not None else ""
    return f"endpoint of {args.base_path} answers like {args.model} over gRPC and REST{where}"


def _median_milliseconds(ask: _Ask) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 2)


def _report(result: dict[str, Any]) -> str:
    row, scores = result["page"], result["scores"]
    width = max((len(item) for item in row["item_id"]), default=0)
    columns = list(scores)
    steps = ", ".join(f"{len(row[f'{name}_time'])} {name}" for name in HISTORIES)
    lines = [
        f"one page of user {row['user_id']}, query {row['query']!r}, history: {steps}; version {result['version']}",
        "  ".join(["item".ljust(max(width, 4)), *(name.rjust(max(len(name), 10)) for name in columns)]),
    ]
    best_first = sorted(range(len(scores["in process"])), key=lambda n: -scores["in process"][n])
    for n in best_first:
        cells = [f"{scores[name][n]:.8f}".rjust(max(len(name), 10)) for name in columns]
        lines.append("  ".join([row["item_id"][n].ljust(max(width, 4)), *cells]))
    latencies = ", ".join(f"{name} {milliseconds} ms" for name, milliseconds in result["latency_ms"].items())
    lines.append(f"largest difference {result['largest_difference']:.1e}; median latency: {latencies}")
    if result["notice"]:
        lines.append(f"notice: {result['notice']}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
