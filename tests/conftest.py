"""Shared fixtures: the sample, and one small run of the whole stack on it."""

import contextlib
import gc
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands have it: TensorFlow reads it when it starts
# Workers of a test run share the cores: a second thread for each small operation costs more than it saves.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

import benchmarks.base

# The same examples every time. `make test-random` draws others, many more of them.
hypothesis.settings.register_profile("derandomised", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "derandomised"))


def pytest_configure(config):
    """Prepares TensorFlow where tests run: not in a process that only hands them to workers."""
    if getattr(config.option, "tx", None) and not hasattr(config, "workerinput"):
        return
    # Modules, and the millions of objects that tracing makes, live on: looking through all of them again and again
    # takes a tenth of the time.
    gc.disable()
    import tensorflow as tf

    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    gc.enable()
    # Two logical devices, so that every test can compare one replica with two. Must happen before TensorFlow starts.
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)

    from tests.remembering_beam import remember_lookups

    remember_lookups()


def pytest_make_parametrize_id(val):
    """Names gzip data by its size: it holds the time, and the workers of a run must agree on the names of tests."""
    return f"{len(val)} bytes of gzip" if isinstance(val, bytes) and val.startswith(b"\x1f\x8b") else None


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def memory(tmp_path, monkeypatch) -> str:
    """The URI of an empty directory of a file system in the memory of this process, and an empty cache for copies."""
    monkeypatch.setenv("COURIER_CACHE", str(tmp_path / "cache"))
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def work(tmp_path_factory, worker_id) -> Path:
    """A directory that the parallel workers of a test run share."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "stack"
    directory.mkdir(exist_ok=True)
    return directory


def make_once(artifact: Path, make: Callable[[str], object]) -> Path:
    """Lets the first worker that asks for an artifact make it; the others wait."""
    return benchmarks.base.make_once(artifact, lambda: make(str(artifact)))


@pytest.fixture(scope="session")
def sample_logs(work) -> Path:
    from beam_pipelines.datasets import sample

    options = ["--photos", "200", "--users", "150", "--pages", "900"]
    return make_once(work / "logs", lambda path: sample.main(["--output", path, *options]))


@pytest.fixture(scope="session")
def sample_dataset(work, sample_logs) -> Path:
    from beam_pipelines import build

    return make_once(work / "dataset", lambda path: build.main(["--logs", str(sample_logs), "--output", path]))


@pytest.fixture(scope="session")
def published_sample(work) -> Path:
    """What `examples/logs_to_published_version.py` makes of a small sample, and what that prints (`printed`)."""
    from beam_pipelines import BuildOptions
    from beam_pipelines.datasets.sample_logs import write_sample_logs
    from examples import logs_to_published_version

    def make(path):
        logs, made = Path(f"{path}.logs"), Path(f"{path}.made")
        write_sample_logs(logs, photos=100, users=50, pages=300)
        options = BuildOptions(page_buckets=2)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            version = logs_to_published_version.main(logs, made, options, encoder_epochs=1, ranker_epochs=1)
        assert version == made / "serving" / "1"
        (made / "printed").write_text(printed.getvalue())
        made.rename(path)

    return make_once(work / "published_sample", make)


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data("hm_fashion")`: a real data set that is not part of the repository, or a skip."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"real data set {name} is not beside this checkout ({path}); it may not be redistributed")
        return path

    return find


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[str]:
    """An S3 on this machine, to which this process and those that it starts are pointed; the URI of an empty bucket.

    Tests share the bucket: each writes below a folder of its own.
    """
    from s3fs import S3FileSystem

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint, bucket = f"http://127.0.0.1:{port}", "shop"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("s3") / "log"
    with (
        pytest.MonkeyPatch.context() as environment,
        open(log, "w") as file,
        subprocess.Popen(command, stdout=file, stderr=file) as server,
    ):
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        S3FileSystem.clear_instance_cache()  # one that a test made before has looked for credentials already
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")
                    urllib.request.urlopen(request).close()
                    break
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            yield f"s3://{bucket}"
        finally:
            S3FileSystem.clear_instance_cache()
            server.terminate()


@pytest.fixture
def s3_denies(s3_server) -> Iterator[None]:
    """The S3 denies whatever is asked of it."""

    def allow(requests: str) -> None:
        url = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, requests.encode(), headers, method="POST")).close()

    allow("0")
    yield
    allow("1000000000")
