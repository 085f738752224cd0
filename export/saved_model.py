"""Exports a ranker for TensorFlow Serving: `python -m export.saved_model`."""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import about
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import ArgumentParser, CommandError, require_directory, run_command
from export.gates.logged_pages import altered_pages, logged_pages
from export.gates.loopback_server import loopback_server
from export.gates.skew_check import check_skew
from export.gates.version_check import Outputs, VersionError, check, replay, session_gates
from export.version.base_path import MAX_VERSION, published_versions, write_serving_config
from export.version.example_pages import (
    UNKNOWN_ID,
    ScoredPages,
    complete,
    pad_rows,
    read_page_records,
    read_row_ids,
)
from export.version.graph import RankerModule
from export.version.inputs import RequestInput, request_inputs
from export.version.model_card import model_card, read_report, write_card
from export.version.recorded_requests import GoldenRequest, write_golden, write_warmup
from models.artifact import METADATA_NAME, read_metadata
from models.data.dataset import Dataset
from models.ranker.run import RankerMetadata, load_ranker

EXAMPLE_REQUEST_FILE = "assets.extra/example_request.json"
RANKER_METADATA_FILE = "assets.extra/ranker.json"
"""The ranker's `metadata.json`: which ranker a version is."""

_WARMUP_BATCHES = (1, 8)
_GOLDEN_PAGES = 16


def main(argv: Sequence[str] | None = None) -> str:
    """Writes a version of the ranker, lets it pass the gates, publishes it, and returns the closing line."""
    parser = ArgumentParser("Exports a ranker as a version of a TensorFlow Serving model, checked before it appears.")
    parser.add_argument("--model", type=Path, default=Path("artifacts/ranker"), help="from models.train_ctr")
    parser.add_argument("--base-path", type=Path, default=Path("artifacts/serving"), help="the model's directory")
    parser.add_argument("--version", type=int, help="number of the version (unset: one more than the largest there)")
    parser.add_argument(
        "--data",
        type=Path,
        help="dataset whose pages are scored by both sides (unset: artifacts/dataset if it has the ranker's items and "
        "users, else the example pages that the ranker keeps)",
    )
    parser.add_argument("--skew-pages", type=int, default=1000, help="how many of them")
    parser.add_argument("--report", type=Path, help="from models.evaluate, for the model card (unset: none)")
    args = parser.parse_args(argv)

    require_directory(args.model, "--model", "models.train_ctr")
    if args.base_path.exists() and not args.base_path.is_dir():
        raise CommandError(f"--base-path: {args.base_path} is not a directory")
    if args.skew_pages < 1:
        raise CommandError(f"--skew-pages must be at least 1. Received: {args.skew_pages}")
    versions = published_versions(args.base_path)
    version = max(versions, default=0) + 1 if args.version is None else args.version
    if not 1 <= version <= MAX_VERSION:
        raise CommandError(f"--version must be between 1 and {MAX_VERSION}. Received: {version}")
    if version in versions or (args.base_path / str(version)).exists():
        raise CommandError(f"--version: {args.base_path} has a version {version}; a published version never changes")
    with about("model"):
        metadata = read_metadata(RankerMetadata, args.model, "models.train_ctr")
    report = None if args.report is None else read_report(args.report, args.model, metadata)
    ids = read_row_ids(args.model)
    example_records = read_page_records(args.model)
    logged = logged_pages(args.data, args.model, metadata, args.skew_pages)

    tf.get_logger().setLevel("ERROR")
    with tf.device("CPU:0"):  # to the last digit like the process that checks the version, wherever this one runs
        ranker = load_ranker(args.model)
        with _gate("finite scores in process", args.model) as passed:
            examples = ScoredPages.of(ranker, ids, example_records)
            altered = altered_pages(logged.records, len(ids.items))
            pages = ScoredPages.of(ranker, ids, [*logged.records, *altered])
            _refuse_what_is_not_finite([*examples.outputs, *pages.outputs])
            passed.append(f"{len(examples.rows)} example pages, {len(logged.records)} {logged.source}")
        inputs = request_inputs(ranker)
        with whole_directory(args.base_path / str(version)) as output:
            # A directory of this one version, which a server can be pointed at before it is published.
            staged = output / str(version)
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as scratch:
                RankerModule(ranker, ids, Path(scratch)).save(staged)
            write_golden(staged, _golden(examples, inputs, ranker.config.lengths.candidates))
            write_warmup(staged, _warmup(examples, inputs))
            (staged / EXAMPLE_REQUEST_FILE).write_text(_example_request(examples, inputs))
            shutil.copyfile(args.model / METADATA_NAME, staged / RANKER_METADATA_FILE)
            manifest = _manifest_of(logged.dataset, metadata)
            write_card(staged, model_card(args.model, ranker, metadata, inputs, manifest, report))
            size = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
            print(
                f"wrote version {version} as {output.name}: {len(ids.items)} items, {len(ids.users)} users, "
                f"{size / 1e6:.1f} MB [{time.perf_counter() - start:.1f} s]",
                flush=True,
            )
            _pass_session_gates(args.model, staged, examples, inputs)
            with _gate("train / serve skew", args.model) as passed:
                largest = _skew(output, pages, inputs)
                ways = ", ".join(f"{way} {difference:.1e}" for way, difference in largest.items())
                passed.append(f"{len(pages.rows)} pages, largest difference: {ways}")
            for path in [*staged.iterdir()]:
                path.rename(output / path.name)
            staged.rmdir()
            _flush_to_disk(output)
            write_serving_config(args.base_path)
    return (
        f"version {version} in {args.base_path / str(version)}: passed all gates, differs by "
        f"{max(largest.values()):.1e} from the ranker in process"
    )


def _pass_session_gates(model: Path, staged: Path, pages: ScoredPages, inputs: dict[str, RequestInput]) -> None:
    """Lets a version that is written pass the gates that need no server."""
    gates = session_gates(staged, pages, inputs)
    with _gate("loads in a process without our code", model) as passed:
        done = replay(staged, [request for gate in gates for request in gate.requests])
        passed.append(f"{len(done.answers)} requests run")
    start = 0
    for gate in gates:
        end = start + len(gate.requests)
        with _gate(gate.name, model, sum(done.seconds[start:end])) as passed:
            passed.append(check(gate, done.answers[start:end]))
        start = end


def _skew(base_path: Path, pages: ScoredPages, inputs: dict[str, RequestInput]) -> dict[str, float]:
    try:
        with loopback_server(base_path) as server:
            return check_skew(server, pages, inputs)
    except CommandError as error:
        raise VersionError(str(error)) from error


@contextlib.contextmanager
def _gate(name: str, model: Path, seconds: float | None = None) -> Iterator[list[str]]:
    """Prints one line when a gate is passed.

    Args:
        name: of the gate.
        model: the ranker, for the error.
        seconds: how long it took, if that was before.

    Yields:
        Takes what to print.

    Raises:
        CommandError: the gate is not passed.
    """
    start = time.perf_counter()
    passed: list[str] = []
    try:
        yield passed
    except VersionError as error:
        raise CommandError(f"--model: {model} is not published, it fails the gate `{name}`: {error}") from error
    seconds = time.perf_counter() - start if seconds is None else seconds
    print(f"passed `{name}`: {passed[0]} [{seconds:.1f} s]", flush=True)


def _refuse_what_is_not_finite(pages: Sequence[Outputs]) -> None:
    for name in pages[0]:
        scores = np.concatenate([outputs[name] for outputs in pages])
        if not np.isfinite(scores).all():
            raise VersionError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} values of {name} are not finite")


def _warmup(pages: ScoredPages, inputs: dict[str, RequestInput]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Warm-up requests of example pages, and of one with new items.

    They hold every input, so that they also run where a server knows no defaults.
    """
    requests = []
    for size in _WARMUP_BATCHES:
        requests.append(("serving_default", complete(pad_rows(pages.rows[:size]), inputs)))
        requests.append(("tf_example", {"examples": np.array(pages.records[:size], object)}))
    new_items = {**pages.rows[0], "item_id": [UNKNOWN_ID] * len(pages.rows[0]["item_id"])}
    return [*requests, ("serving_default", complete(pad_rows([new_items]), inputs))]


def _golden(pages: ScoredPages, inputs: dict[str, RequestInput], candidates: int) -> list[GoldenRequest]:
    """Example pages, one by one, with their outputs in process; `tf_example` answers for so many candidates."""
    golden = []
    for row, record, outputs in zip(*pages.some(slice(_GOLDEN_PAGES)), strict=True):
        scores = {name: values[None] for name, values in outputs.items()}
        golden.append(GoldenRequest("serving_default", complete(pad_rows([row]), inputs), scores))
        padded = {}
        for name, values in outputs.items():
            padded[name] = np.zeros((1, candidates), np.float32)
            padded[name][0, : len(values)] = values[:candidates]
        golden.append(GoldenRequest("tf_example", {"examples": np.array([record], object)}, padded))
    return golden


def _example_request(pages: ScoredPages, inputs: dict[str, RequestInput]) -> str:
    """The body of a REST request with every input, as TensorFlow Serving wants it there."""
    row = {**{name: [] for name, each in inputs.items() if each.per != "page"}, **pages.rows[0]}
    return json.dumps({"signature_name": "serving_default", "instances": [row]}, ensure_ascii=False) + "\n"


def _manifest_of(dataset: Dataset | None, metadata: RankerMetadata) -> Manifest | None:
    """The manifest of the dataset at hand if it is the one that the ranker learned on."""
    if dataset is None or dataset.manifest.digest() != metadata.dataset_digest:
        return None
    return dataset.manifest


def _flush_to_disk(directory: Path) -> None:
    """Makes sure that a crash of the machine after the rename cannot leave a version with empty files."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    run_command(main)
