"""Shared fixtures: one small run of the whole stack on the shipped sample, made by the real commands."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf

# Two logical devices, so that every test can compare one replica with two. Must happen before TensorFlow starts.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def sample_logs(work) -> Path:
    from beam_pipelines.datasets import sample

    sample.main(["--output", str(work / "logs"), "--photos", "200", "--users", "150", "--pages", "900"])
    return work / "logs"


@pytest.fixture(scope="session")
def sample_dataset(work, sample_logs) -> Path:
    from beam_pipelines import build

    build.main(["--logs", str(sample_logs), "--output", str(work / "dataset")])
    return work / "dataset"


@pytest.fixture(scope="session")
def sample_encoder(work, sample_dataset) -> Path:
    from models import pretrain

    options = ["--config", "courier_cpu", "--set", "epochs=1", "--set", "batch_size=16"]
    pretrain.main(["--data", str(sample_dataset), "--output", str(work / "encoder"), *options])
    return work / "encoder"


@pytest.fixture(scope="session")
def sample_embeddings(work, sample_dataset, sample_encoder) -> Path:
    from models import embed

    arguments = ["--data", str(sample_dataset), "--encoder", str(sample_encoder)]
    embed.main([*arguments, "--output", str(work / "embeddings")])
    return work / "embeddings"


@pytest.fixture(scope="session")
def sample_clusters(work, sample_embeddings) -> Path:
    from models import cluster

    arguments = ["--embeddings", str(sample_embeddings), "--num-clusters", "12"]
    cluster.main([*arguments, "--output", str(work / "clusters")])
    return work / "clusters"


@pytest.fixture(scope="session")
def sample_ranker(work, sample_dataset, sample_clusters) -> Path:
    from models import train_ctr

    arguments = ["--data", str(sample_dataset), "--image-feature", "cluster_id", "--clusters", str(sample_clusters)]
    train_ctr.main([*arguments, "--output", str(work / "ranker"), "--set", "epochs=1"])
    return work / "ranker"


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data("hm_fashion")`: a real data set that is not part of the repository, or a skip."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"real data set {name} is not beside this checkout ({path}); it may not be redistributed")
        return path

    return find
