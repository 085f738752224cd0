"""Serving the ranker: latency beside DeepCTR's DIN, load with hot swaps, cold start, and a million items.

    make bench-env
    nice -n -5 .venv/bin/python -m benchmarks.serving.load [--quick]

Everything is published by `export.saved_model` and served by `export.serve` as it comes, on loopback and two cores,
which server and client share. Weights are random; tables are those of `benchmarks.ranker`: 100,000 items, 1,000
categories, 50,000 users, embeddings of 16. The ranker reads IDs and categories alone: no pictures, titles, query or
statistics. Its attention is another than DIN's (`ours_recent` there), so that the speed-up is that of a product which
ranks pages, not of one layer.

- latency: one page of 200 candidates over gRPC. Ours is one row with histories of 1,000 clicks, 1,000 payments and 200
  cart additions, as strings. DeepCTR's DIN (exported in its own environment, served by the same process) takes numbers,
  and 200 rows with the same history of 1,000 clicks. Requests are built once, and all are asked in turns; speed-ups are
  medians over the turns. Two rankers of ours: with the sizes that `models.train_ctr` gives a ranker unless it is told
  otherwise (activation unit of 32, MLP of 128, 64, 32 and 16), of which all figures are but those whose name ends in
  `equal_sizes` and `speedup_deepctr`: these are of one with DeepCTR's sizes (64; 512, 128 and 64). `client_p50_ms` is
  of `RankerClient.rank`, which builds the request each time.
- load: 8 clients without a pause for 60 seconds, while a new version is published every 5 seconds. Each failed request
  and each answer of an older version than the client has seen counts as an error.
- cold start: from the start of the server's process to the first answer.
- a million items: size of the SavedModel, memory of the server after the first answer.

`--quick` asks fewer times and loads for 12 seconds.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from tqdm import tqdm

from beam_pipelines.format.manifest import Window, ids_sha256
from beam_pipelines.format.records import FEATURES, encode_page
from benchmarks.base import ROOT, benchmark_parser, peer_command, run_benchmark, status_mb, use_two_cores
from benchmarks.ranker.inputs import (
    ATTENTION_UNITS,
    CATEGORIES,
    DIM,
    ITEMS,
    MLP_UNITS,
    NOW,
    PAGE_CANDIDATES,
    PAGE_LENGTHS,
    USERS,
    draw_weights,
    to_rows,
)
from export.client.page import History, Page
from export.client.ranker_client import RankerClient, page_inputs
from export.server.endpoint import Listening
from models.features.adapt import adapt_features
from models.features.spec import CategoryFeature, FeaturesConfig, IdFeature, resolve_features
from models.features.training_counts import TrainingCounts
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.run import RankerMetadata, RankerRun

MANY_ITEMS = 1_000_000
MINUTE = 60_000
EXAMPLE_PAGES = 2
CLIENTS = 8
SECONDS = 300  # for anything to happen


EQUAL_SIZES: dict[str, Any] = {"attention": AttentionConfig(units=ATTENTION_UNITS), "mlp_units": MLP_UNITS}
"""What a ranker's configuration must say to have the sizes of DeepCTR's DIN."""


class Scale(NamedTuple):
    """How often everything is measured."""

    warm_up: int
    calls: int
    turns: int
    load_seconds: int
    swap_seconds: int


FULL, QUICK = Scale(20, 1000, 30, 60, 5), Scale(5, 100, 5, 12, 5)


def draw_page(items: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A page by row numbers: user, candidates, histories."""
    page = {"user": rng.integers(1, USERS, 1), "item": rng.integers(1, items, (1, PAGE_CANDIDATES))}
    return page | {name: rng.integers(1, items, (1, length)) for name, length in PAGE_LENGTHS.items()}


def to_page(drawn: dict[str, np.ndarray]) -> Page:
    """The page as a client says it."""
    histories = {
        name: History([f"item-{row}" for row in drawn[name][0]], [NOW - MINUTE * (n + 1) for n in range(length)])
        for name, length in PAGE_LENGTHS.items()
    }
    items = [f"item-{row}" for row in drawn["item"][0]]
    return Page(f"user-{drawn['user'][0]}", items, NOW, histories=histories)


def write_run(run: Path, items: int, category: np.ndarray, rng: np.random.Generator, sizes: dict[str, Any]) -> None:
    """Writes a run of `models.train_ctr` with random weights, histories and candidates as on the page."""
    run.mkdir(parents=True)
    table = {
        "items": pa.table(
            {"item_id": [f"item-{row}" for row in range(items)], "category": [f"category-{n}" for n in category]}
        ),
        "users": pa.table({"user_id": [f"user-{row}" for row in range(USERS)]}),
    }
    features = FeaturesConfig(
        item={"item_id": IdFeature(dropout=0.0), "category": CategoryFeature(match=True)},
        user={"user_id": IdFeature(dropout=0.0, match=False)},
        candidate={},
        query=False,
    )
    config = RankerConfig(
        lengths=RankerLengths(candidates=PAGE_CANDIDATES, **PAGE_LENGTHS),
        features=resolve_features(features, table["items"].schema, table["users"].schema),
        embedding_dim=DIM,
        item_dim=2 * DIM,
        token_buckets=1,
        **sizes,
    )
    counts = TrainingCounts(np.full(items, 9), np.full(USERS, 9), {})
    tables = adapt_features(config.features, table["items"], table["users"], counts, token_buckets=1)
    ranker = Ranker(config, tables.sizes, "none")
    ranker.fill(tables)
    records = []
    for number in range(EXAMPLE_PAGES):
        drawn = draw_page(items, rng)
        page: dict[str, Any] = {"page_id": [b"page-%d" % number], "query": [b""], "timestamp": np.array([NOW])}
        page |= {"user": drawn["user"], "item": drawn["item"][0], "position": np.arange(PAGE_CANDIDATES)}
        for name, length in PAGE_LENGTHS.items():
            page |= {f"{name}_item": drawn[name][0], f"{name}_time": NOW - MINUTE * (1 + np.arange(length))}
        # Nothing is known of the rest: labels, statistics.
        records.append(encode_page({f.name: page.get(f.name, np.zeros(PAGE_CANDIDATES)) for f in FEATURES}))
    metadata = RankerMetadata(
        image_feature="none",
        seed=0,
        dataset_digest="synthetic",
        item_ids_sha256=ids_sha256(table["items"]["item_id"].to_pylist()),
        user_ids_sha256=ids_sha256(table["users"]["user_id"].to_pylist()),
        window=Window(first=0, last=1),
        negative_rate=1.0,
        validation={},
        embeddings=None,
        clusters=None,
        notice="random weights",
    )
    RankerRun.save(
        run,
        ranker,
        metadata,
        TrainingConfig(ranker=config),
        items=table["items"],
        users=table["users"],
        example_records=records,
    )


def publish(
    work: Path,
    name: str,
    items: int,
    category: np.ndarray,
    rng: np.random.Generator,
    sizes: dict[str, Any] | None = None,
) -> Path:
    """Writes and publishes version 1 of a ranker; returns its base path."""
    write_run(work / f"{name}_run", items, category, rng, sizes or {})
    base = work / name
    words = [sys.executable, "-m", "export.saved_model", "--model", work / f"{name}_run", "--base-path", base]
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True, stdout=sys.stderr)
    return base


class Server:
    """A process of `export.serve`, ready to answer.

    Args:
        options: of the command.
    """

    def __init__(self, *options: str) -> None:
        self.started = time.perf_counter()
        words = [sys.executable, "-m", "export.serve", *options, "--port", "0", "--rest-port", "0"]
        self._process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        listening = next(filter(None, map(Listening.from_line, self._process.stdout)), None)
        if listening is None:
            sys.exit("the server did not start; its message is above")
        self.grpc = listening.grpc
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(self.grpc, limits)
        self.stub = PredictionServiceStub(self._channel)

    def memory_mb(self) -> float:
        """Resident size."""
        return status_mb("VmRSS", self._process.pid)

    def stop(self) -> None:
        """Ends the process."""
        self._channel.close()
        self._process.terminate()
        self._process.communicate()


@contextlib.contextmanager
def server(*options: str) -> Iterator[Server]:
    """A server, stopped when the block ends."""
    running = Server(*options)
    try:
        yield running
    finally:
        running.stop()


def to_request(model: str, inputs: dict[str, np.ndarray]) -> predict_pb2.PredictRequest:
    """A request for the latest version."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def milliseconds(ask: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    ask()
    return 1e3 * (time.perf_counter() - start)


def page_request(running: Server, page: Page, model: str = "ranker") -> predict_pb2.PredictRequest:
    """The page as a request, with the types that the ranker reads."""
    with RankerClient(running.grpc, timeout=SECONDS, model=model) as client:
        return to_request(model, page_inputs(page, client.inputs))


def measure_latency(work: Path, page: Page, rows: dict[str, np.ndarray], scale: Scale) -> dict[str, float]:
    """One page of ours beside the same candidates of DeepCTR, from one server."""
    config = "".join(
        f'config {{ name: "{name}" base_path: "{work / name}" model_platform: "tensorflow" }} '
        for name in ("ranker", "equal_sizes", "deepctr")
    )
    (work / "models.config").write_text(f"model_config_list {{ {config}}}")
    with server("--model-config-file", str(work / "models.config")) as running:
        requests = {name: page_request(running, page, name) for name in ("ranker", "equal_sizes")}
        requests["deepctr"] = to_request("deepctr", rows)
        asks = {name: lambda name=name: running.stub.Predict(requests[name], timeout=SECONDS) for name in requests}
        for _ in range(scale.warm_up):
            for ask in asks.values():
                ask()
        turns = [
            {name: milliseconds(ask) for name, ask in asks.items()}
            for _ in tqdm(range(scale.turns), desc="ours and DeepCTR, in turns")
        ]
        alone = [milliseconds(asks["ranker"]) for _ in tqdm(range(scale.calls), desc="ours")]
        with RankerClient(running.grpc, timeout=SECONDS) as client:
            whole = [milliseconds(lambda: client.rank(page)) for _ in tqdm(range(scale.calls // 2), desc="client")]
    return {
        "p50_ms": float(np.percentile(alone, 50)),
        "p99_ms": float(np.percentile(alone, 99)),
        "client_p50_ms": float(np.percentile(whole, 50)),
        "p50_ms_equal_sizes": statistics.median(turn["equal_sizes"] for turn in turns),
        "deepctr_p50_ms": statistics.median(turn["deepctr"] for turn in turns),
        "speedup_deepctr": statistics.median(turn["deepctr"] / turn["equal_sizes"] for turn in turns),
        "speedup_deepctr_default_sizes": statistics.median(turn["deepctr"] / turn["ranker"] for turn in turns),
    }


class Asking(threading.Thread):
    """A client that asks for a page without a pause until it is stopped.

    Args:
        address: of the server.
        request: what it asks.
        stop: set to stop it.
    """

    def __init__(self, address: str, request: predict_pb2.PredictRequest, stop: threading.Event) -> None:
        super().__init__()
        self._address, self._request, self._stopping = address, request, stop
        self.latencies: list[float] = []
        self.versions: set[int] = set()
        self.errors: list[str] = []

    def run(self) -> None:
        """Asks."""
        newest = 0
        with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = PredictionServiceStub(channel)
            while not self._stopping.is_set():
                start = time.perf_counter()
                try:
                    version = stub.Predict(self._request, timeout=SECONDS).model_spec.version.value
                except grpc.RpcError as error:
                    self.errors.append(f"{error.code().name}: {error.details()}")
                    continue
                self.latencies.append(1e3 * (time.perf_counter() - start))
                self.versions.add(version)
                if version < newest:
                    self.errors.append(f"version {version} after {newest}")
                newest = max(newest, version)


def measure_load(base: Path, page: Page, scale: Scale) -> dict[str, float]:
    """Clients at once, while new versions appear."""
    with server("--base-path", str(base)) as running:
        stop = threading.Event()
        request = page_request(running, page)
        clients = [Asking(running.grpc, request, stop) for _ in range(CLIENTS)]
        start = time.perf_counter()
        for client in clients:
            client.start()
        version = 1
        with tqdm(total=scale.load_seconds, desc=f"{CLIENTS} clients, hot swaps", unit="s") as bar:
            while (elapsed := time.perf_counter() - start) < scale.load_seconds:
                if elapsed >= version * scale.swap_seconds:
                    version += 1
                    shutil.copytree(base / "1", base / f".{version}")
                    os.replace(base / f".{version}", base / str(version))
                time.sleep(0.1)
                bar.update(min(int(elapsed) + 1, scale.load_seconds) - bar.n)
        stop.set()
        for client in clients:
            client.join()
        seconds = time.perf_counter() - start
        memory = running.memory_mb()
    errors = [error for client in clients for error in client.errors]
    for error in errors[:5]:
        print(f"error under load: {error}", flush=True)
    latencies = np.concatenate([client.latencies for client in clients])
    return {
        "load_errors": len(errors),
        "load_requests": len(latencies),
        "requests_per_s": len(latencies) / seconds,
        "load_p50_ms": float(np.percentile(latencies, 50)),
        "load_p99_ms": float(np.percentile(latencies, 99)),
        "published_versions": version,
        "versions_seen": len(set().union(*(client.versions for client in clients))),
        "load_memory_mb": memory,
    }


def measure_start(base: Path, page: Page) -> dict[str, float]:
    """From the start of the process to the first answer, and what the server then holds."""
    with server("--base-path", str(base), "--version-policy", "specific:1") as running:
        running.stub.Predict(page_request(running, page), timeout=SECONDS)
        seconds = time.perf_counter() - running.started
        size = sum(path.stat().st_size for path in (base / "1").rglob("*") if path.is_file()) / 1e6
        return {"cold_start_s": seconds, "saved_model_mb": size, "memory_mb": running.memory_mb()}


def main() -> None:
    """Runs the benchmark."""
    run_benchmark("serving", benchmark_parser(__doc__, quick="fewer calls"), measure)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything and prints the figures."""
    use_two_cores()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    scale = QUICK if args.quick else FULL
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        category = rng.integers(1, CATEGORIES, ITEMS)
        drawn = draw_page(ITEMS, rng)
        page = to_page(drawn)
        base = publish(work, "ranker", ITEMS, category, rng)
        publish(work, "equal_sizes", ITEMS, category, rng, EQUAL_SIZES)
        rows = to_rows({**drawn, "clicked": np.zeros_like(drawn["item"])}, category)
        del rows["clicked"]
        np.savez(work / "weights.npz", **draw_weights(rng))
        np.savez(work / "page.npz", **rows)
        words = ("--work-dir", work, "--steps", PAGE_LENGTHS["click"], "--output", work / "deepctr" / "1")
        command = peer_command("deepctr", "benchmarks.serving.peers.deepctr_saved_model", *words)
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        result |= measure_latency(work, page, rows, scale)
        result |= measure_start(base, page)
        result |= measure_load(base, page, scale)
        many = publish(work, "many", MANY_ITEMS, np.resize(category, MANY_ITEMS), rng)
        result |= {f"{name}_1e6_items": value for name, value in measure_start(many, page).items()}
    result["load_average"] = round(os.getloadavg()[0], 1)
    for name, value in result.items():
        print(f"{name:28s}{value:>12.4g}")
    return result


if __name__ == "__main__":
    main()
