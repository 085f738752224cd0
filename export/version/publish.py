"""Publishes a ranker: writes a version of it, lets the version pass its gates, and only then makes it appear."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.shell.progress import say
from export.gates.loopback_server import loopback_server
from export.gates.passing import passing
from export.gates.skew import altered_pages, check_skew, logged_pages
from export.gates.version_check import Outputs, VersionError, check, replay, session_gates
from export.version.base_path import RANKER_METADATA_FILE, write_serving_config
from export.version.graph import RankerModule
from export.version.inputs import RequestInput, request_inputs
from export.version.model_card import model_card, read_report, write_card
from export.version.recorded_requests import GoldenRequest, WarmupRequest, write_golden, write_warmup
from export.version.reference_pages import ReferencePages
from export.version.request_rows import UNKNOWN_ID, complete, pad_rows
from export.version.whole_version import new_version, whole_version
from models.artifact import METADATA_NAME
from models.data.dataset import Dataset
from models.ranker.ranker import Ranker
from models.ranker.run import RankerMetadata, RankerRun, RowIds

EXAMPLE_REQUEST_FILE = "assets.extra/example_request.json"

_WARMUP_BATCHES = (1, 8)
_GOLDEN_PAGES = 16


class PublishedVersion(NamedTuple):
    """A version that has passed all gates.

    Attributes:
        number: the version.
        path: its directory.
        largest_difference: between the scores that clients get and those of the ranker in process.
    """

    number: int
    path: Location
    largest_difference: float


def publish(
    model: str | Location,
    base_path: str | Location,
    *,
    version: int | None = None,
    data: Dataset | str | Location | None = None,
    skew_pages: int = 1000,
    report: str | Location | None = None,
) -> PublishedVersion:
    """Exports a ranker as a version of a TensorFlow Serving model, checked before it appears.

    The gates: finite scores in process; the files load and answer in a process without our code; warm-up and golden
    requests; pages alone and in batches; missing and unknown inputs; NaN; and a server that answers logged pages over
    gRPC and REST as the ranker does in process, to 1e-6.

    A version on an object store, which has no rename, is there from its first file on and can be loaded from its last
    one on, `saved_model.pb`.

    Args:
        model: the ranker's run directory.
        base_path: the directory of the model's versions, or its URI; made if it does not exist.
        version: number of the version; `None` for one more than the largest there.
        data: dataset whose pages are scored by both sides; `None` for the example pages that the run keeps.
        skew_pages: how many of them.
        report: of `models.evaluate`, for the model card; `None` for a card without one.

    Raises:
        VersionError: the version does not pass a gate. Nothing is published.
        InputError: an argument cannot be used.

    Example:
        >>> publish("artifacts/ranker", "artifacts/serving", report="artifacts/report").path
        PosixPath('artifacts/serving/1')
    """
    if skew_pages < 1:
        raise InputError(f"`skew_pages` must be at least 1. Received: {skew_pages}")
    base_path, number = new_version(base_path, version)
    with about("model"):
        run = RankerRun(model)
    with about("report"):
        measured = None if report is None else read_report(as_location(report), run)
    with about("model"):
        ids = run.row_ids()
        example_records = run.example_records()
    with about("data"):
        dataset = data if data is None or isinstance(data, Dataset) else Dataset(data)
        logged = logged_pages(dataset, run, skew_pages)

    with tf.device("CPU:0"):  # to the last digit like the process that checks the version, wherever this one runs
        with about("model"):
            ranker = run.ranker()
            inputs = request_inputs(ranker)
        with passing("finite scores in process", run.path) as passed:
            examples = ReferencePages.of(ranker, ids, example_records)
            altered = altered_pages(logged.records, len(ids.items))
            pages = ReferencePages.of(ranker, ids, [*logged.records, *altered])
            _refuse_what_is_not_finite([*examples.outputs, *pages.outputs])
            passed.append(f"{len(examples.rows)} example pages, {len(logged.records)} {logged.source}")
        with whole_version(base_path, number) as staged:
            start = time.perf_counter()
            _write_version(staged, run, ranker, ids, examples, inputs)
            manifest = _manifest_of(dataset, run.metadata)
            write_card(staged, model_card(run, ranker, inputs, manifest, measured))
            size = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
            say(
                f"wrote version {number} as {staged.parent.name}: {len(ids.items)} items, {len(ids.users)} users, "
                f"{size / 1e6:.1f} MB [{time.perf_counter() - start:.1f} s]"
            )
            _pass_session_gates(run, staged, examples, inputs)
            with passing("train / serve skew", run.path) as passed, loopback_server(staged.parent) as server:
                largest = check_skew(server, pages, inputs)
                ways = ", ".join(f"{way} {difference:.1e}" for way, difference in largest.items())
                passed.append(f"{len(pages.rows)} pages, largest difference: {ways}")
            write_serving_config(base_path)
    return PublishedVersion(number, base_path / str(number), max(largest.values()))


def _write_version(
    version: Path,
    run: RankerRun,
    ranker: Ranker,
    ids: RowIds,
    examples: ReferencePages,
    inputs: Mapping[str, RequestInput],
) -> None:
    """Writes the SavedModel and all that travels with it but the card."""
    with tempfile.TemporaryDirectory() as scratch, about("model"):
        RankerModule(ranker, ids, Path(scratch)).save(version)
    write_golden(version, _golden(examples, inputs, ranker.config.lengths.candidates))
    write_warmup(version, _warmup(examples, inputs))
    (version / EXAMPLE_REQUEST_FILE).write_text(_example_request(examples, inputs))
    shutil.copyfile(run.file(METADATA_NAME), version / RANKER_METADATA_FILE)


def _pass_session_gates(
    run: RankerRun, staged: Path, pages: ReferencePages, inputs: Mapping[str, RequestInput]
) -> None:
    """Lets a version that is written pass the gates that need no server."""
    gates = session_gates(staged, pages, inputs)
    with passing("loads in a process without our code", run.path) as passed:
        replayed = replay(staged, [request for gate in gates for request in gate.requests])
        passed.append(f"{len(replayed.answers)} requests run")
    start = 0
    for gate in gates:
        end = start + len(gate.requests)
        with passing(gate.name, run.path, sum(replayed.seconds[start:end])) as passed:
            passed.append(check(gate, replayed.answers[start:end]))
        start = end


def _refuse_what_is_not_finite(pages: Sequence[Outputs]) -> None:
    for name in pages[0]:
        scores = np.concatenate([outputs[name] for outputs in pages])
        if not np.isfinite(scores).all():
            raise VersionError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} values of {name} are not finite")


def _warmup(pages: ReferencePages, inputs: Mapping[str, RequestInput]) -> list[WarmupRequest]:
    """Warm-up requests of example pages, and of one with new items.

    They hold every input, so that they also run where a server knows no defaults.
    """
    requests = []
    for size in _WARMUP_BATCHES:
        requests.append(WarmupRequest("serving_default", complete(pad_rows(pages.rows[:size]), inputs)))
        requests.append(WarmupRequest("tf_example", {"examples": np.array(pages.records[:size], object)}))
    new_items = {**pages.rows[0], "item_id": [UNKNOWN_ID] * len(pages.rows[0]["item_id"])}
    return [*requests, WarmupRequest("serving_default", complete(pad_rows([new_items]), inputs))]


def _golden(pages: ReferencePages, inputs: Mapping[str, RequestInput], candidates: int) -> list[GoldenRequest]:
    """Example pages, one by one, with their outputs in process; `tf_example` answers for so many candidates."""
    golden = []
    for row, record, outputs in zip(*pages.select(slice(_GOLDEN_PAGES)), strict=True):
        scores = {name: values[None] for name, values in outputs.items()}
        golden.append(GoldenRequest("serving_default", complete(pad_rows([row]), inputs), scores))
        padded = {}
        for name, values in outputs.items():
            padded[name] = np.zeros((1, candidates), np.float32)
            padded[name][0, : len(values)] = values[:candidates]
        golden.append(GoldenRequest("tf_example", {"examples": np.array([record], object)}, padded))
    return golden


def _example_request(pages: ReferencePages, inputs: Mapping[str, RequestInput]) -> str:
    """The body of a REST request with every input, as TensorFlow Serving wants it there."""
    row = {**{name: [] for name, each in inputs.items() if each.per != "page"}, **pages.rows[0]}
    return json.dumps({"signature_name": "serving_default", "instances": [row]}, ensure_ascii=False) + "\n"


def _manifest_of(dataset: Dataset | None, metadata: RankerMetadata) -> Manifest | None:
    """The manifest of the dataset at hand if it is the one that the ranker learned on."""
    if dataset is None or dataset.manifest.digest() != metadata.dataset_digest:
        return None
    return dataset.manifest
