"""Starts a server on an exported ranker, asks for one page and compares: `python -m export.endpoint_check`."""

import argparse
import json
from typing import TYPE_CHECKING

from beam_pipelines.format.location import as_location
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.records import HISTORIES
from beam_pipelines.shell.command import ArgumentParser, CommandError, command, require_directory, run_command

if TYPE_CHECKING:
    from export.gates.endpoint import EndpointAnswers


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Serves an exported ranker, asks for one page over gRPC and REST, compares, and stops.")
    parser.add_argument("--base-path", default="artifacts/serving", help="from export.saved_model")
    parser.add_argument("--model", default="artifacts/ranker", help="the ranker to compare with")
    parser.add_argument("--output", help="JSON file to write the result to (unset: it is only printed)")
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Checks the endpoint and returns the closing line."""
    from export.gates.endpoint import ask_endpoint
    from export.server.version_mirror import local_base_path
    from export.version.reference_pages import MAX_DIFFERENCE

    base_path = require_directory(options.base_path, "--base-path", "export.saved_model")
    model = require_directory(options.model, "--model", "models.train_ctr")
    with local_base_path(base_path) as local:
        answers = ask_endpoint(model, local)
    print(_report(answers), flush=True)
    if not answers.largest_difference <= MAX_DIFFERENCE:
        raise CommandError(
            f"the endpoint differs by {answers.largest_difference:.1e} from {options.model} "
            f"(allowed: {MAX_DIFFERENCE:.0e})"
        )
    if options.output is not None:
        with whole_file(as_location(options.output)) as scratch:
            scratch.write_text(json.dumps(answers._asdict(), indent=2, ensure_ascii=False) + "\n")
    written = f", written to {options.output}" if options.output is not None else ""
    return f"endpoint of {options.base_path} answers like {options.model} over gRPC and REST{written}"


def _report(answers: "EndpointAnswers") -> str:
    row, scores = answers.page, answers.scores
    width = max((len(item) for item in row["item_id"]), default=0)
    columns = list(scores)
    steps = ", ".join(f"{len(row[f'{name}_time'])} {name}" for name in HISTORIES)
    lines = [
        f"one page of user {row['user_id']}, query {row['query']!r}, history: {steps}; version {answers.version}",
        "  ".join(["item".ljust(max(width, 4)), *(name.rjust(max(len(name), 10)) for name in columns)]),
    ]
    best_first = sorted(range(len(scores["in process"])), key=lambda n: -scores["in process"][n])
    for n in best_first:
        cells = [f"{scores[name][n]:.8f}".rjust(max(len(name), 10)) for name in columns]
        lines.append("  ".join([row["item_id"][n].ljust(max(width, 4)), *cells]))
    latencies = ", ".join(f"{name} {milliseconds} ms" for name, milliseconds in answers.latency_ms.items())
    lines.append(f"largest difference {answers.largest_difference:.1e}; median latency: {latencies}")
    if answers.notice:
        lines.append(f"notice: {answers.notice}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
