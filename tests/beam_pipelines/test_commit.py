"""What engines may do to what workers say they wrote."""

import apache_beam as beam
import pytest

from beam_pipelines import BuildOptions, build_dataset, pipeline
from beam_pipelines.commit import CommitDataset
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.format.outputs import is_committed
from beam_pipelines.pages.transforms import build_pages
from tests.beam_pipelines.random_logs import SPLIT
from tests.beam_pipelines.test_pipeline import files_of


@pytest.fixture
def deliver(monkeypatch):
    """Makes the engine deliver what was written in another way."""

    def arrange(change):
        def built(*arguments):
            written = build_pages(*arguments)
            return written._replace(buckets=written.buckets | "Deliver" >> beam.FlatMap(change))

        monkeypatch.setattr(pipeline, "build_pages", built)

    return arrange


def build(logs, output):
    return build_dataset(logs, output, BuildOptions(split_by_time=SPLIT))


def test_what_is_delivered_twice_counts_once(logs, dataset, tmp_path, deliver):
    deliver(lambda bucket: [bucket, bucket])
    assert build(logs, tmp_path / "d") == Manifest.read(dataset)
    assert files_of(tmp_path / "d") == files_of(dataset)


def test_two_attempts_that_differ_publish_nothing(logs, tmp_path, deliver):
    deliver(lambda bucket: [bucket, {**bucket, "counters": {}}])
    with pytest.raises(InputError, match="bucket 0 was written twice, and differently: logs changed meanwhile, or"):
        build(logs, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_what_gets_lost_is_noticed(logs, tmp_path, deliver):
    deliver(lambda bucket: [bucket] if bucket["bucket"] else [])
    with pytest.raises(InputError, match=r"rows \d+ came to 4 buckets, of which 3 were written: this runner"):
        build(logs, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_the_last_step_may_run_again(logs, dataset, tmp_path, monkeypatch):
    """As by an engine that has not heard of its success."""
    add_commit = pipeline.add_commit
    drafts = []

    def noted(built, draft, *written):
        drafts.append(draft)
        add_commit(built, draft, *written)

    monkeypatch.setattr(pipeline, "add_commit", noted)
    build(logs, tmp_path / "d")
    assert is_committed(drafts[0].attempt)
    CommitDataset(drafts[0]).process(None, [], [], [], [])
    assert files_of(tmp_path / "d") == files_of(dataset)
