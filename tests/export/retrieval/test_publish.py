import json
from unittest.mock import ANY

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl as loader

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.shell.command import CommandError
from export.gates.version_check import VersionError
from export.retrieval import __main__ as retrieval
from export.retrieval.publish import check_same, publish_retrieval
from export.version.recorded_requests import read_golden
from tests.export.toy_retriever import make_toy_retriever
from tests.models.tiny_dataset import write_tiny_dataset


def test_the_command_publishes_a_version_with_its_card(toy_retrieval):
    version = toy_retrieval.base_path / "1"
    card = json.loads((version / "assets.extra/model_card.json").read_text())
    assert (card["method"], card["items"], card["users"], card["candidates"]) == ("two_tower", 30, 3, 12)
    assert card["index"] == {"kind": "brute_force", "recall": 1.0, "needs": "any TensorFlow Serving"}
    assert "Notice: toy notice." in (version / "assets.extra/model_card.md").read_text()
    assert 'name: "retrieval"' in (toy_retrieval.base_path / "models.config").read_text()
    assert [*toy_retrieval.base_path.glob(".*")] == []
    assert len(read_golden(version)) > 5
    assert toy_retrieval.closing.startswith(f"version 1 in {version}: passed all gates, finds 100.00% of")
    for gate in ("without our code", "rows independent of batch mates", "a server's answers"):
        assert gate in toy_retrieval.printed


def test_items_of_a_later_dataset_are_served_without_training(toy_retrieval, tmp_path):
    later = write_tiny_dataset(tmp_path / "later", items=40, users=7, pages=40)
    np.save(tmp_path / "later.npy", np.random.default_rng(1).normal(size=(40, 5)))
    model = ["--model", str(toy_retrieval.run.path), "--base-path", str(tmp_path / "serving")]
    with pytest.raises(CommandError, match="--embeddings are those of the items of --data"):
        retrieval.main([*model, "--embeddings", "later.npy"])
    data = ["--data", str(later.data), "--embeddings", str(tmp_path / "later.npy")]
    everything = ["--index", "scann", "--leaves", "2", "--leaves-to-search", "2", "--reordered", "40"]
    closing = retrieval.main([*model, *data, "--k", "40", *everything])
    version = tmp_path / "serving/1"
    assert closing.startswith(f"version 1 in {version}: passed all gates")
    card = json.loads((version / "assets.extra/model_card.json").read_text())
    assert (card["items"], card["users"]) == (40, 7)
    assert card["features"] == [[{"name": "later.npy", "dim": 5, "sha256": ANY}]]
    metadata = json.loads((version / "assets.extra/retrieval.json").read_text())
    assert metadata["interactions_sha256"] == toy_retrieval.run.metadata.interactions_sha256
    found = read_golden(version)[0].outputs["item_id"]
    assert set(found.ravel().tolist()) - {b""} <= {b"item%05d" % row for row in range(40)}

    bpr = make_toy_retriever(tmp_path, "bpr")
    with pytest.raises(CommandError, match="--data: bpr has learned a vector of each item"):
        retrieval.main(["--model", str(bpr.path), "--base-path", str(tmp_path / "none"), *data])
    assert not (tmp_path / "none").exists()


def test_scann_in_a_saved_model_answers_as_brute_force_does_where_it_searches_everything(toy_retrieval, tmp_path):
    everything = {"leaves": 2, "leaves_to_search": 2, "reordered": 30}
    published = publish_retrieval(toy_retrieval.run.path, tmp_path / "scann", k=12, index="scann", scann=everything)
    assert published.recall == 1
    card = json.loads((published.path / "assets.extra/model_card.json").read_text())
    assert "ScaNN" in card["index"]["needs"]
    operations = {
        node.op
        for function in loader.parse_saved_model(str(published.path)).meta_graphs[0].graph_def.library.function
        for node in function.node_def
    }
    assert any(operation.startswith("Scann") for operation in operations)
    loaded = tf.saved_model.load(str(published.path)).signatures["serving_default"]
    for request in read_golden(toy_retrieval.base_path / "1"):
        answer = loaded(**{name: tf.constant(value) for name, value in request.inputs.items()})
        check_same(request.signature, {name: each.numpy() for name, each in answer.items()}, request.outputs)


def test_what_is_damaged_or_does_not_fit_is_refused_and_nothing_published(toy_retrieval, tmp_path):
    with pytest.raises(InputError, match="`k` must be at least 1"):
        publish_retrieval(toy_retrieval.run.path, tmp_path / "a", k=0)
    with pytest.raises(InputError, match="has a version 1; a published version never changes"):
        publish_retrieval(toy_retrieval.run.path, toy_retrieval.base_path, version=1)
    damaged = tmp_path / "run"
    damaged.mkdir()
    for file in toy_retrieval.run.path.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    items = np.load(damaged / "item_vectors.npy")
    items[3, 1] = np.nan
    np.save(damaged / "item_vectors.npy", items)
    with pytest.raises(ArtifactError, match="has vectors that are not finite"):
        publish_retrieval(damaged, tmp_path / "b")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda answer: "an error", "who: an error"),
        (lambda answer: {**answer, "score": answer["score"] + 1e-3}, "scores are off by 1.0e-03"),
        (lambda answer: {**answer, "item_id": answer["item_id"][:, [1, 0, 2, 3]]}, "other items in row 0"),
        (lambda answer: {**answer, "score": answer["score"] * np.nan}, "scores that are not finite"),
        (lambda answer: {name: each[:, :3] for name, each in answer.items()}, r"shape \(1, 3\) instead of \(1, 4\)"),
    ],
)
def test_another_answer_fails_its_gate(change, text):
    answer = {"item_id": np.array([[b"a", b"b", b"c", b"d"]], object), "score": np.float32([[0.9, 0.5, 0.5, 0.1]])}
    check_same("who", answer, answer)
    check_same("who", {**answer, "item_id": answer["item_id"][:, [0, 2, 1, 3]]}, answer)  # equal scores have no order
    with pytest.raises(VersionError, match=text):
        check_same("who", change(answer), answer)
