from types import SimpleNamespace

import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import Window
from models.evaluation.contenders import contenders, systems_of
from models.ranker.config import TrainingConfig
from models.ranker.run import RankerMetadata


def write_run(path, *, image_feature="none", seed=0, epochs=1, dataset_digest="digest"):
    """What is read of a run before its ranker is."""
    path.mkdir(parents=True)
    RankerMetadata(
        image_feature=image_feature,
        seed=seed,
        dataset_digest=dataset_digest,
        item_ids_sha256="items",
        user_ids_sha256="users",
        window=Window(first=0, last=1),
        validation={},
        embeddings=None,
        clusters=None,
        notice="",
    ).write(path)
    (path / "config.yaml").write_text(TrainingConfig(epochs=epochs).to_yaml())
    np.save(path / "training_counts.npy", np.array([0, 2, 1]))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of two image features, more epochs, and a run of another dataset."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "none-0": write_run(root / "none-0"),
        "none-1": write_run(root / "none-1", seed=1),
        "vector-0": write_run(root / "vector-0", image_feature="vector"),
        "vector-1": write_run(root / "vector-1", image_feature="vector", seed=1),
        "long": write_run(root / "long", epochs=2),
        "other": write_run(root / "other", dataset_digest="another"),
        "same": write_run(root / "elsewhere" / "none-0"),
    }


def in_memory(name, image_feature="simscore"):
    return SimpleNamespace(name=name, image_feature=image_feature)


def test_rows_are_called_after_directories_rankers_and_names(runs):
    ranker = in_memory("ranker")
    assert list(contenders(runs["none-0"])) == ["none-0"]
    assert list(contenders(str(runs["none-0"]))) == ["none-0"]
    assert list(contenders(ranker)) == ["ranker"]
    assert list(contenders([runs["none-0"], ("a", runs["vector-0"]), ("b", ranker)])) == ["none-0", "vector-0", "b"]
    assert list(contenders({"a": [runs["none-0"], ranker], "b": ranker})) == ["none-0", "a", "b"]
    assert list(contenders({"a": [ranker, in_memory("ranker")]})) == ["a 1", "a 2"]
    alike = list(contenders([runs["none-0"], runs["same"]]))
    assert alike == [str(runs[name]).replace("/", "_") for name in ("none-0", "same")]


def test_descriptions(runs):
    named = contenders([runs["vector-1"], in_memory("ranker")])
    described = named["vector-1"].description()
    assert (described["run"], described["image_feature"], described["seed"]) == (str(runs["vector-1"]), "vector", 1)
    assert described["digest"] == named["vector-1"].run.metadata.digest()
    assert named["ranker"].description() == {"run": None, "digest": None, "image_feature": "simscore", "seed": None}
    np.testing.assert_array_equal(named["vector-1"].seen_items(dataset=None), [False, True, True])


@pytest.mark.parametrize(
    ("names", "systems"),
    [
        (["none-0"], {"none-0": [0]}),
        (["none-0", "vector-0"], {"none-0": [0], "vector-0": [1]}),
        (["none-0", "vector-0", "none-1", "vector-1"], {"none": [0, 2], "vector": [1, 3]}),
        (["none-0", "none-1", "long"], {"none as none-0": [0, 1], "long": [2]}),
        (["none-0", "other", "none-1"], {"none as none-0": [0, 2], "other": [1]}),
    ],
)
def test_runs_that_differ_in_their_seed_are_one_system(runs, names, systems):
    assert systems_of(contenders([runs[name] for name in names])) == systems


def test_what_has_a_name_is_one_system_whatever_it_is(runs):
    named = {"both": [runs["none-0"], runs["vector-0"]], "mine": in_memory("x")}
    assert systems_of(contenders(named)) == {"both": [0, 1], "mine": [2]}
    pairs = [("both", runs["none-0"]), (None, runs["long"]), ("both", runs["vector-0"])]
    assert systems_of(contenders(pairs)) == {"both": [0, 2], "long": [1]}
    assert systems_of(contenders([in_memory("a"), in_memory("b")])) == {"a": [0], "b": [1]}


def test_errors(runs, tmp_path):
    with pytest.raises(InputError, match="at least one ranker is needed"):
        contenders([])
    with pytest.raises(InputError, match="the same run twice"):
        contenders([runs["none-0"], runs["none-0"]])
    with pytest.raises(ArtifactError, match=r"nowhere has no metadata\.json; models\.train_ctr makes it"):
        contenders([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="two systems have the name none-0; give one of them another NAME="):
        systems_of(contenders([("none-0", runs["vector-0"]), runs["none-0"]]))
