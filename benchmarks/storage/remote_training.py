"""Training on a dataset in an object store beside the same dataset on the local disk.

    python -m benchmarks.storage.remote_training [--data DATASET] [--quick]

The store is an S3 server on this machine (moto, one Python process), so that the first reading is bound by that server
and not by a network. What is compared are the steps afterwards, which read local copies. For both sides, in turns:

- reading: from nothing to all files of the dataset verified, with an empty cache;
- pre-training: pictures per second of `models.pretrain` (preset `courier_cpu`), by epoch;
- ranker: pages per second of `Ranker.fit` without pictures, by epoch.

The first epoch, in which graphs are traced, is apart. Each turn runs in a process of its own.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tqdm import tqdm

from beam_pipelines.format.location import as_location
from beam_pipelines.format.outputs import whole_directory
from benchmarks.base import benchmark_parser, run_benchmark, use_two_cores

Figures = dict[str, list[float]]

_BUCKET = "benchmark"
_BATCH = 64


def turn(data: str, epochs: int) -> Figures:
    """Reads the dataset, trains an encoder and a ranker on it; rates by epoch."""
    import keras

    from models import Dataset, Ranker, load_config, pretrain
    from models.pretraining.config import PretrainConfig

    start = time.perf_counter()
    dataset = Dataset(data)
    dataset.image_shard_paths()
    for split in ("pretraining", "train"):
        dataset.shard_paths(split)
    reading = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as scratch:
        changes = [f"epochs={epochs}", "validation_share=0", "checkpoint_minutes=60"]
        config = load_config(PretrainConfig, "courier_cpu", changes)
        run = pretrain(data, Path(scratch, "encoder"), config=config).run
        assert run is not None
        pictures = [float(rate or 0) for rate in run.history["images_per_second"]]

    class Clock(keras.callbacks.Callback):
        seconds: list[float] = []  # noqa: RUF012 (one object)

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    keras.utils.set_random_seed(0)
    train = Dataset(data).pages("train")
    ranker = Ranker.adapt(train)
    ranker.compile()
    clock = Clock()
    ranker.fit(train.batches(_BATCH, shuffle=True), epochs=epochs, callbacks=[clock], verbose=0)
    return {"reading": [reading], "pictures": pictures, "pages": [len(train) / each for each in clock.seconds]}


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """An S3 on this machine, which this process and those that it starts are pointed to; the URI of a bucket."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "w") as file, subprocess.Popen(command, stdout=file, stderr=file) as server:
        try:
            request = urllib.request.Request(f"{endpoint}/{_BUCKET}", method="PUT")
            while server.poll() is None:
                try:
                    urllib.request.urlopen(request).close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.1)
            yield f"s3://{_BUCKET}"
        finally:
            server.terminate()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures both sides in turns."""
    use_two_cores()
    turns, epochs = (1, 3) if options.quick else (2, 5)
    sides: dict[str, list[Figures]] = {"local": [], "remote": []}
    with tempfile.TemporaryDirectory() as scratch, s3_server(Path(scratch, "s3.log")) as bucket:
        remote = f"{bucket}/dataset"
        with whole_directory(as_location(remote)) as directory:
            shutil.copytree(options.data, directory, dirs_exist_ok=True)
        size = sum(path.stat().st_size for path in options.data.rglob("*") if path.is_file())
        data = {"local": str(options.data), "remote": remote}
        for number in tqdm(range(turns), desc="turns", unit="turn"):
            for side, measured in sides.items():
                os.environ["COURIER_CACHE"] = str(Path(scratch, f"cache-{number}"))
                with get_context("spawn").Pool(1) as process:
                    measured.append(process.apply(turn, (data[side], epochs)))
    figures: dict[str, Any] = {"megabytes": size / 1e6}
    for side, measured in sides.items():
        figures[f"reading_s_{side}"] = statistics.median(each["reading"][0] for each in measured)
        for name in ("pictures", "pages"):
            figures[f"{name}_per_s_first_{side}"] = statistics.median(each[name][0] for each in measured)
            later = [rate for each in measured for rate in each[name][1:]]
            figures[f"{name}_per_s_{side}"] = statistics.median(later)
    for name in ("pictures", "pages"):
        figures[f"{name}_per_s_ratio"] = figures[f"{name}_per_s_remote"] / figures[f"{name}_per_s_local"]
    figures["load_average"] = os.getloadavg()[0]
    return figures


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one turn of three epochs")
    parser.add_argument("--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build")
    run_benchmark("remote_training", parser, measure)


if __name__ == "__main__":
    main()
