"""Shared fixtures: one small run of the whole stack on the shipped sample, made by the real commands."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands have it: TensorFlow reads it when it starts

import hypothesis
import pytest
import tensorflow as tf

# The same examples every time. `make test-random` draws others, many more of them.
hypothesis.settings.register_profile("derandomised", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "derandomised"))

# Two logical devices, so that every test can compare one replica with two. Must happen before TensorFlow starts.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def work(tmp_path_factory, worker_id) -> Path:
    """A directory that the parallel workers of a test run share."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "stack"
    directory.mkdir(exist_ok=True)
    return directory


def make_once(artifact: Path, make: Callable[[str], object]) -> Path:
    """Lets the first worker that asks for an artifact make it; the others wait."""
    with open(artifact.with_name(f"{artifact.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not artifact.exists():
            make(str(artifact))
    return artifact


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
def sample_encoder(work, sample_dataset) -> Path:
    from models.pretrain import main as pretrain_command

    options = ["--data", str(sample_dataset), "--config", "courier_cpu", "--set", "epochs=1", "--set", "batch_size=16"]
    return make_once(work / "encoder", lambda path: pretrain_command([*options, "--output", path]))


@pytest.fixture(scope="session")
def sample_embeddings(work, sample_dataset, sample_encoder) -> Path:
    from models.embed import main as embed_command

    options = ["--data", str(sample_dataset), "--encoder", str(sample_encoder)]
    return make_once(work / "embeddings", lambda path: embed_command([*options, "--output", path]))


@pytest.fixture(scope="session")
def sample_clusters(work, sample_embeddings) -> Path:
    from models.cluster import main as cluster_command

    options = ["--embeddings", str(sample_embeddings), "--num-clusters", "12"]
    return make_once(work / "clusters", lambda path: cluster_command([*options, "--output", path]))


@pytest.fixture(scope="session")
def sample_ranker(work, sample_dataset, sample_clusters) -> Path:
    from models.train_ctr import main as train_ctr_command

    options = ["--data", str(sample_dataset), "--clusters", str(sample_clusters), "--set", "epochs=1"]
    return make_once(work / "ranker", lambda path: train_ctr_command([*options, "--output", path]))


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data("hm_fashion")`: a real data set that is not part of the repository, or a skip."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"real data set {name} is not beside this checkout ({path}); it may not be redistributed")
        return path

    return find
