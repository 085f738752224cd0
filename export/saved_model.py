"""Exports a ranker for TensorFlow Serving: `python -m export.saved_model`."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from beam_pipelines.command import ArgumentParser, CommandError, require_directory, run_command, whole_directory
from export.example_pages import pad_rows, read_page_records, read_row_ids, request_row, scores_in_process
from export.model_versions import MAX_VERSION, published_versions
from export.ranker_module import RankerModule
from export.version_check import VersionError, check_version
from export.warmup import write_warmup
from models.artifacts import METADATA_NAME
from models.ctr.ranker import load_ranker

EXAMPLE_REQUEST_FILE = "assets.extra/example_request.json"
RANKER_METADATA_FILE = "assets.extra/ranker.json"
"""The ranker's `metadata.json`: which ranker a version is."""

_WARMUP_BATCHES = (1, 8)


def main(argv: Sequence[str] | None = None) -> str:
    """Writes and checks a version of the ranker, publishes it, and returns the closing line."""
    parser = ArgumentParser("Exports a ranker as a version of a TensorFlow Serving model, checked before it appears.")
    parser.add_argument("--model", type=Path, default=Path("artifacts/ranker"), help="from models.train_ctr")
    parser.add_argument("--base-path", type=Path, default=Path("artifacts/serving"), help="the model's directory")
    parser.add_argument("--version", type=int, help="number of the version (unset: one more than the largest there)")
    args = parser.parse_args(argv)

    require_directory(args.model, "--model", "models.train_ctr")
    if args.base_path.exists() and not args.base_path.is_dir():
        raise CommandError(f"--base-path: {args.base_path} is not a directory")
    versions = published_versions(args.base_path)
    version = max(versions, default=0) + 1 if args.version is None else args.version
    if not 1 <= version <= MAX_VERSION:
        raise CommandError(f"--version must be between 1 and {MAX_VERSION}. Received: {version}")
    if version in versions or (args.base_path / str(version)).exists():
        raise CommandError(f"--version: {args.base_path} has a version {version}; a published version never changes")
    ids = read_row_ids(args.model)
    records = read_page_records(args.model)

    tf.get_logger().setLevel("ERROR")
    with tf.device("CPU:0"):  # to the last digit like the process that checks the version, wherever this one runs
        ranker = load_ranker(args.model)
        expected = scores_in_process(ranker, records)
    rows = [request_row(record, ids, ranker.config.features.candidate) for record in records]
    with whole_directory(args.base_path / str(version)) as output:
        print(f"exporting version {version}: {len(ids.items)} items, {len(ids.users)} users", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            RankerModule(ranker, ids, Path(scratch)).save(output)
        warmup = []
        for size in _WARMUP_BATCHES:
            warmup.append(("serving_default", pad_rows(rows[:size])))
            warmup.append(("tf_example", {"examples": records[:size]}))
        write_warmup(output, warmup)
        request = {"signature_name": "serving_default", "instances": rows[:1]}
        (output / EXAMPLE_REQUEST_FILE).write_text(json.dumps(request, ensure_ascii=False) + "\n")
        shutil.copyfile(args.model / METADATA_NAME, output / RANKER_METADATA_FILE)
        print(f"checking it on {len(rows)} example pages in a process of its own", flush=True)
        try:
            difference = check_version(output, rows, records, expected)
        except VersionError as error:
            raise CommandError(f"--model: {args.model} is not published: {error}") from error
        _flush_to_disk(output)
    return (
        f"version {version} in {args.base_path / str(version)}: differs by {difference:.1e} from the ranker in process"
    )


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
