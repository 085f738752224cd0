"""A base path on a store, by the file system that fsspec keeps in memory."""

import time

import pytest

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.location import as_location
from export.server.model_config import ModelConfig, VersionPolicy
from export.server.served_models import ServedModels
from export.server.version_mirror import VersionMirror, local_base_path
from export.version.base_path import published_versions


@pytest.fixture
def base_path(memory):
    return as_location(f"{memory}/toy")


def store(base_path, number, files=("variables/variables.index", "saved_model.pb")):
    for file in files:
        (base_path / str(number) / file).write_text(f"{number} {file}")


def test_only_complete_versions_that_are_wanted_appear(base_path):
    store(base_path, 1)
    store(base_path, 2)
    store(base_path, 3, ["variables/variables.index"])  # is being written
    mirror = VersionMirror(base_path)
    assert list(published_versions(mirror.directory)) == [2]
    store(base_path, 3)
    mirror.refresh()
    assert list(published_versions(mirror.directory)) == [3]
    assert (mirror.directory / "3" / "variables" / "variables.index").read_text() == "3 variables/variables.index"
    base_path.fs.rm(base_path.path, recursive=True)
    mirror.refresh()
    assert list(published_versions(mirror.directory)) == [3]  # as when a directory is empty for a moment
    mirror.close()
    assert not mirror.directory.exists()


def test_a_base_path_without_a_complete_version_is_refused(base_path):
    store(base_path, 3, ["variables/variables.index"])
    with pytest.raises(ArtifactError, match=r"no version under memory://.*/toy; export\.saved_model"):
        VersionMirror(base_path)


def test_a_server_follows_it(base_path, toy_saved_model):
    def publish(number):
        base_path.fs.put(str(toy_saved_model), (base_path / str(number)).path, recursive=True)

    publish(1)
    mirror = VersionMirror(base_path, VersionPolicy())
    models = ServedModels([ModelConfig("toy", mirror.directory)], mirror.directory, poll_seconds=0.05)
    try:
        mirror.follow(0.05)
        assert models.latest("toy") == 1
        publish(2)
        deadline = time.monotonic() + 30
        while models.latest("toy") != 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with models.lease("toy") as servable:
            assert servable.version == 2
    finally:
        models.close()
        mirror.close()


def test_a_directory_is_its_own_copy(tmp_path, base_path):
    with local_base_path(tmp_path) as local:
        assert local == tmp_path
    store(base_path, 4)
    with local_base_path(base_path) as local:
        assert [path.name for path in local.iterdir()] == ["4"]
