"""Datasets of logs that lie at a URI."""

from beam_pipelines import BuildOptions, build_dataset
from tests.beam_pipelines.random_logs import SPLIT
from tests.beam_pipelines.remote import copied


def test_logs_and_an_earlier_dataset_at_a_uri_give_the_same_bytes(logs, dataset, memory, tmp_path):
    copied(logs, f"{memory}/logs")
    copied(dataset, f"{memory}/dataset")
    options = BuildOptions(split_by_time=SPLIT)
    manifest = build_dataset(f"{memory}/logs", tmp_path / "first", options)
    assert (tmp_path / "first" / "manifest.json").read_bytes() == (dataset / "manifest.json").read_bytes()
    again = build_dataset(f"{memory}/logs", tmp_path / "second", options, previous=f"{memory}/dataset")
    assert again == build_dataset(logs, tmp_path / "third", options, previous=dataset)
    assert again.counters["images.reused"] == manifest.images.stored
