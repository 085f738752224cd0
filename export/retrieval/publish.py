"""Publishes a retriever: writes a version of it, lets the version pass its gates, and only then makes it appear."""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import Location
from beam_pipelines.shell.progress import say
from export.gates.loopback_server import loopback_server
from export.gates.passing import passing
from export.gates.version_check import Outputs, Request, VersionError, replay
from export.retrieval.card import write_retrieval_card
from export.retrieval.graph import RetrievalModule
from export.retrieval.inputs import EXCLUDE_SEEN
from export.retrieval.item_index import BruteForce, IndexKind, ItemIndex, Scann, ScannSettings
from export.retrieval.served_vectors import ServedVectors
from export.version.base_path import write_serving_config
from export.version.recorded_requests import GoldenRequest, WarmupRequest, write_golden, write_warmup
from export.version.request_rows import UNKNOWN_ID, complete
from export.version.whole_version import new_version, whole_version
from models.artifact import METADATA_NAME
from models.retrieval.refresh import refresh_retrieval
from models.retrieval.run import RetrievalRun

MODEL_NAME = "retrieval"
"""What servers call the model, unless told otherwise."""

RETRIEVAL_METADATA_FILE = "assets.extra/retrieval.json"
"""In a version: the `metadata.json` of the retriever that it was made of."""

MAX_DIFFERENCE = 1e-5
"""Largest difference allowed between scores of a version and products of the run's vectors."""

_SIGNATURE = "serving_default"
_GOLDEN_USERS = 16
_TOGETHER = 8
_RECALL_USERS = 1000


class PublishedRetrieval(NamedTuple):
    """A version that has passed all gates.

    Attributes:
        number: the version.
        path: its directory.
        recall: share of the candidates by brute force that the index finds, 1 for brute force itself.
    """

    number: int
    path: Location
    recall: float


def publish_retrieval(
    model: str | Location,
    base_path: str | Location,
    *,
    version: int | None = None,
    data: str | Location | None = None,
    embeddings: Sequence[Sequence[str | Path]] = (),
    k: int = 200,
    index: IndexKind = "brute_force",
    scann: Mapping[str, int] | None = None,
) -> PublishedRetrieval:
    """Exports a retriever as a version of a TensorFlow Serving model, checked before it appears.

    The gates: candidates are those of the run's vectors; the files load and answer in a process without our code; users
    alone and together have the same candidates; unknown users, empty and unknown histories; and a server answers over
    gRPC. A version with ScaNN is loaded in this process, which has its operations, and is not asked through the server,
    which has not.

    Args:
        model: the run directory of `models.train_retrieval`.
        base_path: the directory of the model's versions, or its URI; made if it does not exist.
        version: number of the version; `None` for one more than the largest there.
        data: a later dataset, whose items and users are served instead of those that the retriever was trained with;
            see `refresh_retrieval`.
        embeddings: of the items of `data`, kind by kind.
        k: how many candidates a user gets.
        index: `brute_force`: exact, by standard operations; `scann`: approximate, by those of ScaNN.
        scann: those of `ScannSettings` that shall be other than `ScannSettings.of` says.

    Raises:
        VersionError: the version does not pass a gate. Nothing is published.
        InputError: an argument cannot be used.

    Example:
        >>> publish_retrieval("artifacts/retrieval", "artifacts/retrieval_serving", index="scann").recall
        0.998
    """
    if k < 1:
        raise InputError(f"`k` must be at least 1. Received: {k}")
    if index not in get_args(IndexKind):
        raise InputError(f"`index` must be one of {', '.join(get_args(IndexKind))}. Received: {index}")
    base_path, number = new_version(base_path, version)
    with tf.device("CPU:0"), tempfile.TemporaryDirectory() as scratch:
        with about("model"):
            run = RetrievalRun(model)
        if data is not None:
            run = refresh_retrieval(run, data, Path(scratch) / "refreshed", embeddings=embeddings)
        with about("model"):
            vectors = ServedVectors.of(run)
        exact = BruteForce(vectors.items, k)
        settings = ScannSettings.of(len(vectors.items), min(k, len(vectors.items)))._replace(**(scann or {}))
        found_by: ItemIndex = exact if index == "brute_force" else Scann(vectors.items, k, settings)
        with about("model"):
            module = RetrievalModule(vectors, found_by, Path(scratch))
        requests = _requests(vectors, module)
        answers = [_as_numpy(module(request.inputs)) for request in requests]
        with passing("candidates of the run's vectors", run.path) as passed:
            if index == "brute_force":
                for request, answer in zip(requests[: _together(requests)], answers, strict=False):
                    check_same(request.what, answer, _by_hand(vectors, request, answer["score"].shape[1]))
            recall = _recall(vectors, exact, found_by)
            passed.append(f"recall@{min(k, len(vectors.items))} {recall:.4f} of {index} against all items")
        with whole_version(base_path, number) as staged:
            start = time.perf_counter()
            module.save(staged)
            write_golden(
                staged,
                [
                    GoldenRequest(_SIGNATURE, request.inputs, answer)
                    for request, answer in zip(requests, answers, strict=True)
                ],
            )
            write_warmup(staged, [WarmupRequest(_SIGNATURE, request.inputs) for request in requests])
            shutil.copyfile(run.file(METADATA_NAME), staged / RETRIEVAL_METADATA_FILE)
            write_retrieval_card(staged, run, module.inputs, vectors, k, index, settings, recall)
            say(
                f"wrote version {number} as {staged.parent.name}: {len(vectors.item_ids)} items, "
                f"{len(vectors.user_ids)} users [{time.perf_counter() - start:.1f} s]"
            )
            _pass_gates(run, staged, index, requests, answers)
            write_serving_config(base_path, MODEL_NAME)
    return PublishedRetrieval(number, base_path / str(number), recall)


def _requests(vectors: ServedVectors, module: RetrievalModule) -> list[Request]:
    """Golden requests: users alone, the same together and the other way round, and what is not known."""
    random = np.random.default_rng(0)
    chosen = random.permutation(len(vectors.user_ids))[:_GOLDEN_USERS]
    users = [vectors.user_ids[row] for row in chosen]
    items = [vectors.item_ids[row] for row in random.permutation(len(vectors.item_ids))[:5]]

    def request(what: str, user_ids: list[str], seen: bool = True, **histories: list[list[str]]) -> Request:
        inputs = {"user_id": _texts(user_ids), EXCLUDE_SEEN: np.full(len(user_ids), seen)}
        inputs |= {name: _texts(rows) for name, rows in histories.items() if name in module.inputs}
        return Request(what, _SIGNATURE, complete(inputs, module.inputs))

    requests = [request(f"user {user}", [user]) for user in users[:_TOGETHER]]
    requests += [request("users together", users), request("users the other way round", users[::-1])]
    requests += [
        request("users with what they have", users, seen=False),
        request("an unknown user", [UNKNOWN_ID]),
        request("histories", users[:1] * 2, click_item_id=[items, items[::-1]], pay_item_id=[items[:1], items[1:2]]),
        request("unknown items", users[:1], click_item_id=[[UNKNOWN_ID]], pay_item_id=[[""]]),
    ]
    return requests


def _by_hand(vectors: ServedVectors, request: Request, k: int) -> Outputs:
    """What a request of one known user must give, from the vectors alone."""
    row = vectors.user_ids.index(request.inputs["user_id"][0].decode())
    scores = vectors.items @ vectors.users[row]
    scores[vectors.seen.items[vectors.seen.users == row]] = -np.inf
    best = np.argsort(-scores, kind="stable")[:k]
    is_there = np.isfinite(scores[best])
    ids = [vectors.item_ids[item].encode() if there else b"" for item, there in zip(best, is_there, strict=True)]
    return {"item_id": np.array([ids], object), "score": np.where(is_there, scores[best], 0)[None]}


def _recall(vectors: ServedVectors, exact: ItemIndex, found_by: ItemIndex) -> float:
    """The share of the exact candidates that an index finds, over users drawn at random."""
    rows = np.random.default_rng(0).permutation(len(vectors.users))[:_RECALL_USERS]
    nothing = tf.zeros([0, 2], tf.int64)
    shares = []
    for start in range(0, len(rows), 64):
        users = tf.constant(vectors.users[rows[start : start + 64]])
        wanted, found = (index(users, nothing)[1].numpy() for index in (exact, found_by))
        shares += [np.isin(one, other).mean() for one, other in zip(wanted, found, strict=True)]
    return float(np.mean(shares))


def _pass_gates(
    run: RetrievalRun, staged: Path, index: IndexKind, requests: Sequence[Request], expected: Sequence[Outputs]
) -> None:
    where = "a process without our code" if index == "brute_force" else "this process, with ScaNN's operations"
    with passing(f"golden requests in {where}", run.path) as passed:
        if index == "brute_force":
            replayed = replay(staged, requests).answers
        else:
            loaded = tf.saved_model.load(str(staged)).signatures[_SIGNATURE]
            replayed = [
                _as_numpy(loaded(**{name: tf.constant(value) for name, value in request.inputs.items()}))
                for request in requests
            ]
        for request, answer, wanted in zip(requests, replayed, expected, strict=True):
            check_same(request.what, answer, wanted)
        passed.append(f"{len(requests)} requests replayed")
    with passing("rows independent of batch mates", run.path) as passed:
        together, reverse = expected[_together(requests)], expected[_together(requests) + 1]
        for row in range(len(together["score"])):
            one = {name: values[row : row + 1] for name, values in together.items()}
            other = {name: values[::-1][row : row + 1] for name, values in reverse.items()}
            check_same(f"row {row} in another order", other, one)
            if row < _together(requests):
                check_same(f"row {row} alone", expected[row], one)
        passed.append(f"{len(together['score'])} users alone and together")
    if index != "brute_force":
        return
    with passing("a server's answers", run.path) as passed, loopback_server(staged.parent) as server:
        for request, wanted in zip(requests, expected, strict=True):
            check_same(f"{request.what}, over gRPC", server.ask_grpc(_SIGNATURE, request.inputs), wanted)
        passed.append(f"{len(requests)} requests over gRPC")


def _together(requests: Sequence[Request]) -> int:
    return next(number for number, request in enumerate(requests) if request.what == "users together")


def check_same(what: str, answer: Outputs | str, expected: Outputs) -> None:
    """Compares candidates: scores to `MAX_DIFFERENCE`, and the items wherever scores are further apart than that.

    Args:
        what: which ones, for people.
        answer: of the version, or why there is none.
        expected: what it should be.

    Raises:
        VersionError: they differ.
    """
    if isinstance(answer, str):
        raise VersionError(f"{what}: {answer}")
    if answer["score"].shape != expected["score"].shape:
        raise VersionError(f"{what}: shape {answer['score'].shape} instead of {expected['score'].shape}")
    if not np.isfinite(answer["score"]).all():
        raise VersionError(f"{what}: scores that are not finite")
    off = np.abs(answer["score"] - expected["score"]).max(initial=0)
    if not off <= MAX_DIFFERENCE:
        raise VersionError(f"{what}: scores are off by {off:.1e}")
    for row, (ids, wanted) in enumerate(zip(answer["item_id"], expected["item_id"], strict=True)):
        scores = expected["score"][row]
        gaps = np.abs(np.diff(scores)) > 2 * MAX_DIFFERENCE
        clear = np.concatenate([[True], gaps]) & np.concatenate([gaps, [False]])  # the last one may have an equal
        if (np.array(ids)[clear] != np.array(wanted)[clear]).any():
            raise VersionError(f"{what}: other items in row {row}")


def _texts(values: list[str] | list[list[str]]) -> np.ndarray:
    texts = np.array(values, object)
    return np.array([text.encode() for text in texts.ravel()], object).reshape(texts.shape)


def _as_numpy(outputs: dict[str, tf.Tensor]) -> Outputs:
    return {name: value.numpy() for name, value in outputs.items()}
