"""The command `python -m models.train_retrieval`, from logs and from a public file."""

import re
from pathlib import Path

import numpy as np
import pytest

from beam_pipelines.shell.command import CommandError
from models.data.dataset import Dataset
from models.retrieval.run import RetrievalRun
from models.train_retrieval import main
from tests.models.retrieval.drawn_interactions import draw_interactions
from tests.models.tiny_dataset import write_tiny_dataset

FAST = ("--set", "dim=4", "--set", "batch_size=40", "--set", "epochs=2", "--set", "checkpoint_minutes=0")


@pytest.fixture(scope="module")
def inter_file(tmp_path_factory):
    """The drawn interactions, in the public layout."""
    interactions = draw_interactions()
    path = tmp_path_factory.mktemp("inter") / "drawn.inter"
    rows = [
        f"{user}\t{item}\t{label}"
        for label, part in enumerate((interactions.train, interactions.validation, interactions.test))
        for user, item in zip(part.users, part.items, strict=True)
    ]
    path.write_text("\n".join(["userID\titemID\tx_label", *rows, ""]))
    return path


def train(data, output, *options):
    return main(["--data", str(data), "--output", str(output), *FAST, *options])


def test_a_file_becomes_a_run_that_recommends_by_id(inter_file, tmp_path):
    line = train(inter_file, tmp_path / "run", "--set", "learning_rate=0.02", "--seed", "3")
    assert line.startswith("wrote the recommender (bpr) of epoch ")
    run = RetrievalRun(tmp_path / "run")
    assert (run.metadata.method, run.metadata.seed, run.metadata.dataset_digest) == ("bpr", 3, None)
    assert f"test recall@20 {run.metadata.test['recall@20']:.4f}" in line
    history = run.history()
    assert len(history["loss"]) == 2
    assert run.metadata.validation["epoch"] == int(np.argmax(history["val_recall@20"])) + 1
    assert run.metadata.validation["recall@20"] == pytest.approx(max(history["val_recall@20"]))

    (best,) = run.recommend(["7"], k=3)
    row = run.user_ids.index("7")
    scores = run.item_vectors @ run.user_vectors[row]
    interactions = draw_interactions()
    seen = interactions.train.items[interactions.train.users == 7]
    order = [item for item in np.argsort(-scores) if int(run.item_ids[item]) not in seen]
    assert best == [run.item_ids[item] for item in order[:3]]
    with pytest.raises(ValueError, match="Received: nobody"):
        run.recommend(["nobody"])


def test_pages_of_a_dataset(tmp_path):
    tiny = write_tiny_dataset(tmp_path / "tiny", items=60, pages=120)
    train(tiny.data, tmp_path / "run")
    run = RetrievalRun(tmp_path / "run")
    dataset = Dataset(tiny.data)
    assert run.metadata.dataset_digest == dataset.manifest.digest()
    assert run.metadata.window == dataset.split("train").window
    assert run.metadata.notice == "simulated for a test"
    assert run.item_ids[0] == "item00000"


def test_two_towers_learn_from_pages(tmp_path):
    tiny = write_tiny_dataset(tmp_path / "tiny", items=60, pages=120)
    options = ("--method", "two_tower", "--embeddings", str(tiny.embeddings), "--set", "learning_rate=0.01")
    train(tiny.data, tmp_path / "run", *options)
    run = RetrievalRun(tmp_path / "run")
    assert run.history()["loss"][-1] < run.history()["loss"][0]
    user = run.user_ids[int(run.model.seen.users[0])]
    (best,) = run.recommend([user], 4)
    row = run.user_ids.index(user)
    order = [run.item_ids[item] for item in np.argsort(-(run.item_vectors @ run.user_vectors[row]))]
    seen = {run.item_ids[item] for item in run.model.seen.items[run.model.seen.users == row]}
    assert best == [item for item in order if item not in seen][:4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "bqr"), "--method must be one of bpr"),
        (("--set", "layers=2"), "unknown key layers"),
        (("--embeddings", "x.npy"), "--embeddings: x.npy is neither"),
        (("--data", "nowhere"), "--data: .*nowhere"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_written(inter_file, tmp_path, options, message):
    with pytest.raises(CommandError, match=message):
        train(inter_file, tmp_path / "run", *options)
    assert [*tmp_path.iterdir()] == []


def test_an_interrupted_run_ends_like_one_that_was_not(inter_file, tmp_path, monkeypatch):
    from models.training.step_checkpoints import StepCheckpoints

    train(inter_file, tmp_path / "whole")
    after = StepCheckpoints.on_train_batch_end

    def interrupted(self, batch, logs):
        after(self, batch, logs)
        if self.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(StepCheckpoints, "on_train_batch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(inter_file, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run.checkpoints"]
    with pytest.raises(CommandError, match="is of another run"):
        train(inter_file, tmp_path / "run", "--seed", "1")
    train(inter_file, tmp_path / "run")
    whole, run = RetrievalRun(tmp_path / "whole"), RetrievalRun(tmp_path / "run")
    np.testing.assert_array_equal(run.item_vectors, whole.item_vectors)
    np.testing.assert_array_equal(run.user_vectors, whole.user_vectors)
    assert run.history() == whole.history()
    assert run.metadata == whole.metadata
    assert not (tmp_path / "run.checkpoints").exists()


def test_the_guide_s_own_model_is_trained_and_loaded(inter_file, tmp_path, monkeypatch):
    guide = (Path(__file__).parents[2] / "docs" / "retrieval.md").read_text()
    (code,) = re.findall(r"```python\n(import keras\n.*?)```", guide, re.DOTALL)
    (tmp_path / "my_light_gcn.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    line = train(inter_file, tmp_path / "run", "--method", "my_light_gcn:LightGcn", "--set", "layers=1")
    assert line.startswith("wrote the recommender (my_light_gcn:LightGcn)")
    run = RetrievalRun(tmp_path / "run")
    assert run.model.config.layers == 1
    np.testing.assert_allclose(run.model.vectors()[1], run.item_vectors, atol=1e-6)
