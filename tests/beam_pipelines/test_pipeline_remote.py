"""Builds whose output is a URI."""

import pytest

from beam_pipelines import BuildOptions, build_dataset
from beam_pipelines.exchange import Blocks
from beam_pipelines.format.contents import Contents
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.local_copy import local_copy
from beam_pipelines.format.location import as_location
from beam_pipelines.format.manifest import Manifest
from tests.beam_pipelines.random_logs import SPLIT
from tests.beam_pipelines.test_pipeline import files_of

BLOCKS = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
"""Beam's own runner in this process, of which nothing is known: rows are moved by its shuffle."""


def build(logs, output, **more):
    return build_dataset(logs, output, BuildOptions(split_by_time=SPLIT), **more)


@pytest.fixture
def output(memory):
    return as_location(f"{memory}/dataset")


def stored(location):
    """Paths of all files below a location."""
    return {path.removeprefix(f"{location.path}/") for path in location.fs.find(location.path)}


@pytest.mark.parametrize("runner", ["DirectRunner", BLOCKS])
def test_a_remote_dataset_has_the_bytes_of_a_local_one(logs, dataset, output, runner):
    assert build(logs, output, runner=runner) == Manifest.read(dataset)
    copied = files_of(local_copy(output))
    del copied[".origin.json"]
    assert copied == files_of(dataset)
    contents = Contents.read(output)
    listed = {f"{contents.attempt}/{file.path}" for file in contents.files}
    assert stored(output) == listed | {"contents.json", f"{contents.attempt}/begun"}
    with pytest.raises(ArtifactError, match="exists; pass `overwrite=True` to replace it"):
        build(logs, output)


def test_a_build_that_fails_leaves_nothing_at_a_uri(logs, output):
    with pytest.raises(InputError, match="page IDs are used again after more than 0 minutes"):
        build_dataset(logs, output, BuildOptions(split_by_time=SPLIT, page_gap_minutes=0, max_bad_fraction=0))
    assert stored(output) == set()


def test_small_blocks_make_the_same_bytes(logs, dataset, tmp_path, monkeypatch):
    """Rows, pages and statistics that are cut into many blocks."""
    monkeypatch.setattr(Blocks, "piece_bytes", 2000)
    build(logs, tmp_path / "d", runner=BLOCKS)
    assert files_of(tmp_path / "d") == files_of(dataset)
