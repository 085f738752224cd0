"""Versions where there is no rename, by the file system that fsspec keeps in memory."""

import shutil

import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import as_location
from export.server.trusted_digests import version_digest
from export.version.base_path import write_serving_config
from export.version.publish import publish
from export.version.stored_versions import check_writable, fetch_version, is_complete, store_version, stored_versions


@pytest.fixture
def base_path(memory):
    return as_location(f"{memory}/ranker")


@pytest.fixture
def version(toy_base_path, tmp_path):
    return shutil.copytree(toy_base_path / "11", tmp_path / "11")


def test_a_version_that_was_stored_comes_back_whole(base_path, version, tmp_path):
    digest = version_digest(version)
    store_version(version, base_path / "11")
    assert is_complete(base_path / "11")
    fetch_version(base_path / "11", tmp_path / "again")
    assert version_digest(tmp_path / "again") == digest


def test_what_makes_it_loadable_is_written_last(base_path, version, monkeypatch):
    written = []
    file_system = type(base_path.fs)
    put_file = file_system.put_file

    def put(self, local, path, **options):
        written.append(path)
        return put_file(self, local, path, **options)

    monkeypatch.setattr(file_system, "put_file", put)
    store_version(version, base_path / "11")
    assert written[-1].endswith("/11/saved_model.pb")
    assert len(written) == len(base_path.fs.find((base_path / "11").path))


def test_a_store_that_fails_leaves_nothing(base_path, version, monkeypatch):
    file_system = type(base_path.fs)
    put_file = file_system.put_file

    def put(self, local, path, **options):
        if path.endswith("saved_model.pb"):
            raise OSError("no connection")
        return put_file(self, local, path, **options)

    monkeypatch.setattr(file_system, "put_file", put)
    with pytest.raises(InputError, match=r"/ranker/11: OSError: no connection"):
        store_version(version, base_path / "11")
    assert stored_versions(base_path) == {}


def test_of_two_commands_one_publishes_a_number(base_path, version, toy_base_path, tmp_path):
    store_version(version, base_path / "11")
    content = base_path.fs.cat(base_path.fs.find(base_path.path))
    other = shutil.copytree(toy_base_path / "11", tmp_path / "other")
    (other / "saved_model.pb").write_bytes(b"another")
    with pytest.raises(ArtifactError, match="/ranker/11 was published by somebody else meanwhile"):
        store_version(other, base_path / "11")
    assert base_path.fs.cat(base_path.fs.find(base_path.path)) == content


def test_numbers_count_what_is_not_complete_too(base_path, toy_run):
    for path in ("3/saved_model.pb", "7/variables/variables.index", "latest/saved_model.pb", f"{2**63}/saved_model.pb"):
        (base_path / path).write_text("x")
    versions = stored_versions(base_path)
    assert list(versions) == [3, 7]
    assert [number for number, path in versions.items() if is_complete(path)] == [3]
    with pytest.raises(InputError, match=r"`version`: memory://.*/ranker has a version 7; a published version never"):
        publish(toy_run.path, str(base_path), version=7)
    assert [path.name for path in base_path.iterdir() if path.name.startswith(".")] == []


def test_a_store_that_refuses_is_told_first(base_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("Access Denied")

    check_writable(base_path)
    assert base_path.fs.find(base_path.path) == []
    monkeypatch.setattr(type(base_path.fs), "pipe_file", refuse)
    with pytest.raises(InputError, match=r"/ranker: access denied \(Access Denied\)"):
        check_writable(base_path)


def test_a_scheme_that_nobody_knows_is_told_first(toy_run):
    with pytest.raises(InputError, match=r"^`base_path`: none://shop/ranker: "):
        publish(toy_run.path, "none://shop/ranker")


def test_the_configuration_names_the_store(base_path):
    write_serving_config(base_path)
    assert f'base_path: "{base_path}"' in (base_path / "models.config").read_text()
    (base_path / "models.config").write_text("mine")
    write_serving_config(base_path)
    assert (base_path / "models.config").read_text() == "mine"
