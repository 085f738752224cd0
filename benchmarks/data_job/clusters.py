"""The data job on Flink and Spark beside the same build in process, all over an object store.

    make cluster-env
    .venv/bin/python -m benchmarks.data_job.clusters [--quick] [--impressions 2000000] [--repeats 1]

As root: machines are network namespaces (`tests/cluster/machines.py`) that share nothing but a store; all of them share
this machine's cores. Of each build: wall time, the bytes that its machines received (without the job server's jar,
which the engine sends to each of them), the requests to the store, and the bytes that it was sent. `engine_seconds` is
a build of a twentieth of the impressions: what submission and the engine take, whatever the size. That all builds wrote
the same bytes is checked.

`--quick` builds a tenth.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from beam_pipelines.format.contents import Contents
from beam_pipelines.format.location import as_location
from beam_pipelines.format.outputs import upload
from benchmarks.base import ROOT, WORK, benchmark_parser, run_benchmark
from benchmarks.data_job.impression_logs import SPLIT_BY_TIME, write_logs
from tests.cluster.engines import Cluster, Flink, Spark, job_server
from tests.cluster.machines import Network
from tests.cluster.object_store import ObjectStore, running_store

IMPRESSIONS = 2_000_000
QUICK_SHARE = 10
SMALL_SHARE = 20
BUCKETS = 16


class Build(NamedTuple):
    """What one build took: seconds, bytes between machines, requests to the store and bytes that it was sent."""

    seconds: float
    received: int
    requests: int
    stored: int


@contextlib.contextmanager
def nothing_but_this_process() -> Iterator[None]:
    """In process there is no cluster."""
    yield None


def build(logs: str, output: str, cluster: Cluster | None, store: ObjectStore) -> Build:
    """Builds a dataset in the store."""
    command = [sys.executable, "-m", "beam_pipelines.build", "--logs", logs, "--output", output, "--overwrite"]
    command += ["--split-by-time", ",".join(SPLIT_BY_TIME), "--page-buckets", str(BUCKETS)]
    if cluster is not None:
        command += [f"--runner={cluster.runner}", *cluster.beam_options]
    store.behave()
    before = cluster.bytes_moved() if cluster is not None else 0
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    received = cluster.bytes_moved() - before if cluster is not None else 0
    if cluster is not None:
        received -= len(cluster.machines) * job_server(cluster.name).stat().st_size
    counted = store.behave()
    return Build(seconds, received, counted["requests"], counted["received"])


def measure(options: argparse.Namespace) -> dict[str, float | int]:
    """Builds on each cluster in turn."""
    impressions = options.impressions // (QUICK_SHARE if options.quick else 1)
    figures: dict[str, float | int] = {"impressions": impressions, "buckets": BUCKETS}
    with tempfile.TemporaryDirectory() as directory, Network(), running_store(Path(directory)) as store:
        os.environ.update(store.environment)
        logs = {"all": f"{store.bucket}/logs/all", "small": f"{store.bucket}/logs/small"}
        for name, size in (("all", impressions), ("small", impressions // SMALL_SHARE)):
            local = WORK / f"data_job/logs-{size}"
            if not (local / "impressions.parquet").exists():
                write_logs(local, size)
            upload(local, as_location(logs[name]))
        environment = {**store.environment, "PYTHONPATH": str(ROOT)}
        clusters: Mapping[str, Callable[[], contextlib.AbstractContextManager[Cluster | None]]] = {
            "in_process": nothing_but_this_process,
            "flink_1": lambda: Flink(Path(directory), environment, workers=1, parallelism=1),
            "flink_2": lambda: Flink(Path(directory), environment, workers=2, parallelism=2),
            "spark_2": lambda: Spark(Path(directory), environment, workers=2),
        }
        contents = {}
        for name, make in clusters.items():
            output = f"{store.bucket}/datasets/{name}"
            with make() as cluster:
                small = build(logs["small"], output, cluster, store)
                builds = [build(logs["all"], output, cluster, store) for _ in range(options.repeats)]
            figures |= figures_of(name, small, builds)
            print(name, figures_of(name, small, builds), file=sys.stderr, flush=True)
            found = Contents.read(as_location(output))
            contents[name] = sorted((file.path, file.sha256) for file in found.files)
        if any(files != contents["in_process"] for files in contents.values()):
            sys.exit("the builds differ")
    return figures


def figures_of(name: str, small: Build, builds: Sequence[Build]) -> dict[str, float | int]:
    """The figures of one cluster, under their names in the result."""
    return {
        f"seconds_{name}": round(statistics.median(each.seconds for each in builds), 2),
        f"engine_seconds_{name}": round(small.seconds, 2),
        f"received_mb_{name}": round(builds[-1].received / 1e6, 1),
        f"store_requests_{name}": builds[-1].requests,
        f"stored_mb_{name}": round(builds[-1].stored / 1e6, 1),
    }


def main() -> None:
    """Measures and writes the result."""
    parser = benchmark_parser(__doc__, quick="a tenth of the impressions")
    parser.add_argument("--impressions", type=int, default=IMPRESSIONS)
    parser.add_argument("--repeats", type=int, default=1, help="builds on each; the median counts")
    run_benchmark("data_job_clusters", parser, measure)


if __name__ == "__main__":
    main()
