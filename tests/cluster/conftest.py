"""A network of machines with an object store, and clusters of Flink and Spark in it (`make cluster-test`)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from beam_pipelines.format.location import as_location
from beam_pipelines.format.outputs import upload
from tests.cluster.engines import ENVIRONMENT, Flink, Portable, Spark, job_server
from tests.cluster.machines import Network, why_not
from tests.cluster.object_store import running_store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def network():
    if reason := why_not():
        pytest.skip(reason)
    with Network():
        yield


@pytest.fixture(scope="session")
def logs_of_servers(tmp_path_factory):
    """Where servers log; kept by pytest as other temporary directories."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def store(network, logs_of_servers):
    with running_store(logs_of_servers) as running, pytest.MonkeyPatch.context() as environment:
        for name, value in running.environment.items():
            environment.setenv(name, value)
        yield running


@pytest.fixture(autouse=True)
def sound_store(request):
    """What a test told the store to do ends with it."""
    yield
    if "store" in request.fixturenames:
        request.getfixturevalue("store").behave()


def _need(engine, directory):
    if shutil.which("java") is None:
        pytest.skip("no Java runtime")
    if job_server(engine) is None:
        pytest.skip(f"no job server of Beam for {engine} in {ENVIRONMENT / 'jars'}: `make cluster-env` makes it")
    if not (ENVIRONMENT / directory).is_dir():
        pytest.skip(f"no {engine} in {ENVIRONMENT}: `make cluster-env` installs it")


@pytest.fixture(scope="module")
def flink(store, logs_of_servers):
    """A Flink cluster: a job manager and two task managers."""
    _need("flink", "flink")
    with Flink(logs_of_servers, {**store.environment, "PYTHONPATH": str(ROOT)}, workers=2, parallelism=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spark(store, logs_of_servers):
    """A Spark cluster: a master and two workers."""
    _need("spark", "spark")
    with Spark(logs_of_servers, {**store.environment, "PYTHONPATH": str(ROOT)}, workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def portable(store, logs_of_servers):
    """Beam's portable runner with workers on another machine."""
    with Portable(logs_of_servers, {**store.environment, "PYTHONPATH": str(ROOT)}) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def small_logs(tmp_path_factory):
    """Logs of a small shop, on a local disk."""
    directory = tmp_path_factory.mktemp("sample") / "logs"
    command = ["-m", "beam_pipelines.datasets.sample", "--output", str(directory)]
    command += ["--photos", "100", "--users", "80", "--pages", "600"]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
    return directory


@pytest.fixture(scope="session")
def sample(store, small_logs):
    """Logs of a small shop, in the object store."""
    return in_store(store, small_logs, "sample")


@pytest.fixture(scope="session")
def kuairand(store, tmp_path_factory, shared_data):
    """Logs of KuaiRand, in the object store."""
    directory = tmp_path_factory.mktemp("kuairand") / "logs"
    command = ["-m", "beam_pipelines.datasets.kuairand", "--source", str(shared_data("kuairand_impressions"))]
    subprocess.run([sys.executable, *command, "--output", str(directory)], check=True, capture_output=True, cwd=ROOT)
    return in_store(store, directory, "kuairand")


def in_store(store, directory, name):
    uri = f"{store.bucket}/logs/{name}"
    upload(directory, as_location(uri))
    return uri


def build(logs, output, *options, runner=None, beam_options=(), interpreter=sys.executable, cwd=ROOT):
    """Runs the build command to its end."""
    command = [interpreter, "-m", "beam_pipelines.build", "--logs", str(logs), "--output", str(output), *options]
    command += [f"--runner={runner}"] if runner else []
    return subprocess.run(
        [*command, *beam_options],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=cwd,
    )
