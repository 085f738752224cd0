import json
import zipfile

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError, ConfigurationError
from beam_pipelines.format.manifest import Window, ids_sha256
from models.ranker.calibrator import Calibrator
from models.ranker.config import TrainingConfig
from models.ranker.run import CONFIG_FILE, HISTORY_FILE, ITEMS_FILE, RANKER_FILE, RankerMetadata, RankerRun
from tests.models.ranker.ranker_pages import ctr


@pytest.fixture
def saved(ranker, dataset, tmp_path):
    """A run of each image feature."""
    items, users = dataset.items(), dataset.users()
    metadata = RankerMetadata(
        image_feature=ranker.image_feature,
        seed=0,
        dataset_digest="",
        item_ids_sha256=ids_sha256(items["item_id"].to_pylist()),
        user_ids_sha256=ids_sha256(users["user_id"].to_pylist()),
        window=Window(first=0, last=1),
        negative_rate=ranker.negative_rate,
        validation={},
        embeddings=None,
        clusters=None,
        notice="",
    )
    ranker.calibrator = Calibrator(kind="platt", x=(0.0,), y=(-0.5,), slope=1.5)
    run = RankerRun.save(
        tmp_path,
        ranker,
        metadata,
        TrainingConfig(ranker=ranker.config),
        items=items,
        users=users,
        history={"loss": [0.5]},
        example_records=[b"one", b"two"],
        training_counts=np.arange(len(items)),
    )
    yield run
    ranker.calibrator = Calibrator()


def test_a_run_gives_back_what_was_saved(saved, ranker, page, dataset):
    run = RankerRun(saved.path)
    np.testing.assert_array_equal(ctr(run.ranker(), page), ctr(ranker, page))
    assert run.ranker().vocabulary == ranker.vocabulary
    values = json.loads((saved.path / "feature_values.json").read_text())
    assert values["item"]["stat_price"]["high"] == ranker.vocabulary.item["stat_price"].high
    assert run.config().ranker == ranker.config
    assert run.history() == {"loss": [0.5]}
    assert run.row_ids().items == dataset.items()["item_id"].to_pylist()
    assert run.example_records() == [b"one", b"two"]
    assert run.training_counts()[-1] == len(dataset.items()) - 1
    assert run.weights_file().name == RANKER_FILE


def as_it_was_written_before(run, ranker):
    """Takes `ranker.keras` apart into the files that a run had before there was one file."""
    weights = run.path / "ranker.weights.h5"
    ranker.save_weights(weights)
    with h5py.File(weights, "r+") as file:
        file.move("dense", "layers/candidate_numbers")
        if "items/pictures/vars" in file:
            if "items/vars" in file:
                del file["items/vars"]
            file.move("items/pictures/vars", "items/vars")
        encoder = "layers/ranker_member/items/picture_encoder"
        if encoder in file:
            old = {"vector": "image_projection", "cluster_id": "cluster_embedding"}[ranker.image_feature]
            file.move(encoder, encoder.replace("picture_encoder", old))
    sizes = ranker.sizes.model_dump(mode="json")
    sizes["image_dim"] = max([*sizes.pop("image_dims"), sizes.pop("center_dim")])
    (run.path / "feature_sizes.yaml").write_text(json.dumps(sizes))
    (run.path / "feature_values.json").write_text(ranker.vocabulary.model_dump_json())
    (run.path / "calibrator.yaml").write_text(ranker.calibrator.to_yaml())
    (run.path / RANKER_FILE).unlink()


@pytest.mark.parametrize("ranker", ["none", "vector", "simscore", "cluster_id"], indirect=True)
def test_a_run_of_before_loads_with_the_same_scores(saved, ranker, page):
    as_it_was_written_before(saved, ranker)
    again = RankerRun(saved.path).ranker()
    np.testing.assert_array_equal(ctr(again, page), ctr(ranker, page))
    for ours, theirs in zip(again.get_weights(), ranker.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    values = json.loads((saved.path / "feature_values.json").read_text())
    del values["item"]["category"]
    (saved.path / "feature_values.json").write_text(json.dumps(values))
    with pytest.raises(ConfigurationError, match=r"ranker\.features\.item\.category: the ranker has no vocabulary"):
        RankerRun(saved.path).ranker()


@pytest.mark.parametrize("ranker", ["none"], indirect=True)
@pytest.mark.parametrize("value", ["0.0", "-1.0", "NaN", "Infinity", "null"])
def test_a_scale_that_cannot_be_is_named_when_it_is_read(saved, value):
    with zipfile.ZipFile(saved.path / RANKER_FILE) as file:
        files = {name: file.read(name) for name in file.namelist()}
    config = json.loads(files["config.json"])
    config["config"]["vocabulary"]["item"]["stat_price"]["deviation"] = "VALUE"
    files["config.json"] = json.dumps(config).replace('"VALUE"', value).encode()
    with zipfile.ZipFile(saved.path / RANKER_FILE, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    with pytest.raises(ArtifactError, match=r"is damaged, or of another version .item\.stat_price\..*deviation: Input"):
        saved.ranker()


@pytest.mark.parametrize("ranker", ["none"], indirect=True)
def test_what_is_missing_or_damaged_is_named(saved, tmp_path):
    path = saved.path
    (path / RANKER_FILE).write_bytes((path / RANKER_FILE).read_bytes()[:5000])
    with pytest.raises(ArtifactError, match=f"{RANKER_FILE} is damaged, or of another version"):
        saved.ranker()
    (path / RANKER_FILE).unlink()
    with pytest.raises(ArtifactError, match=f"has no {RANKER_FILE}; train the ranker again"):
        saved.ranker()
    for file, read in ((CONFIG_FILE, saved.config), (HISTORY_FILE, saved.history)):
        (path / file).unlink()
        with pytest.raises(ArtifactError, match=f"has no {file}; train the ranker again"):
            read()
    items = saved.items()
    pq.write_table(items.take(list(range(len(items)))[::-1]), path / ITEMS_FILE)
    with pytest.raises(ArtifactError, match="is not the table that the ranker was trained with"):
        saved.row_ids()
    with pytest.raises(ArtifactError, match=r"nowhere has no metadata\.json; models\.train_ctr makes it"):
        RankerRun(tmp_path / "nowhere")
    with tf.io.TFRecordWriter(str(path / "example_pages.tfrecord")):
        pass
    with pytest.raises(ArtifactError, match=r"has no pages in example_pages\.tfrecord"):
        saved.example_records()
