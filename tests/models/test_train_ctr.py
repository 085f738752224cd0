import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_pipelines.format.manifest import Window, ids_sha256
from beam_pipelines.shell.command import CommandError
from models import train_ctr
from models.artifact import read_metadata
from models.clustering.cluster import cluster
from models.clustering.clusters import Clusters, ClustersMetadata
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import page_batches, page_records, page_timestamps, parse_pages
from models.embeddings.embeddings import EmbeddingsMetadata
from models.evaluation.measure import measure
from models.evaluation.scored_pages import score_pages
from models.ranker.config import TrainingConfig
from models.ranker.run import RankerMetadata, RankerRun
from tests.models.tiny_dataset import write_tiny_dataset

ITEM = "{item_id: {type: id, min_count: 2}, category: {type: category, match: true}, title: {type: text}}"
# Less to trace: one history, its newest steps, one number of each candidate.
OVERRIDES = [
    "ranker.mlp_units=[16, 8]",
    "ranker.lengths.click=6",
    "ranker.lengths.pay=0",
    "ranker.lengths.cart=0",
    "ranker.attention.histories=none",
    "ranker.features.candidate={impressions_7d: {type: number, transform: log}}",
    f"ranker.features.item={ITEM}",
]
SMALL = [word for override in OVERRIDES for word in ("--set", override)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A dataset whose test pages cannot be read: training must not try."""
    tiny = write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=60, pages=120)
    for shard in (tiny.data / "pages").glob("test-*"):
        shard.unlink()
    return tiny


def train(tiny, output, *options):
    paths = ["--data", tiny.data, "--embeddings", tiny.embeddings, "--clusters", tiny.clusters, "--output", output]
    return train_ctr.main([*map(str, paths), *SMALL, *options])


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "cluster_id"
    line = train(tiny, run, "--set", "epochs=2", "--set", "batch_size=16", "--set", "monitor=auc", "--seed", "3")
    assert line.startswith("wrote the ranker (cluster_id) of epoch ")
    assert str(run) in line
    return run


def validation_window(tiny):
    dataset = Dataset(tiny.data)
    timestamps = np.sort(page_timestamps(dataset, "train"))
    return dataset, Window(first=int(timestamps[108]), last=int(timestamps[-1]))


def test_the_run_describes_itself(tiny, run):
    metadata = read_metadata(RankerMetadata, run, "models.train_ctr")
    manifest = Dataset(tiny.data).manifest
    assert metadata.dataset_digest == manifest.digest()
    assert metadata.item_ids_sha256 == manifest.items.ids_sha256
    assert metadata.window == manifest.splits["train"].window
    assert metadata.clusters == read_metadata(ClustersMetadata, tiny.clusters, "models.cluster")
    assert metadata.embeddings is None
    assert (metadata.image_feature, metadata.seed, metadata.notice) == ("cluster_id", 3, "simulated for a test")
    config = load_config(TrainingConfig, str(run / "config.yaml"))
    assert (config.epochs, config.ranker.mlp_units, config.ranker.lengths.candidates) == (2, (16, 8), 6)


def test_the_best_epoch_is_that_of_the_monitored_metric(run):
    history = json.loads((run / "history.json").read_text())
    validation = read_metadata(RankerMetadata, run, "models.train_ctr").validation
    assert validation["epoch"] == 1 + np.argmax(history["val_auc"])
    assert validation["auc"] == pytest.approx(max(history["val_auc"]))
    assert len(history["val_gauc_page_mean"]) == len(history["val_gauc_user_mean"]) == 2


def test_the_run_holds_what_serving_needs(tiny, run):
    for name, table in (("items", "item_id"), ("users", "user_id")):
        ids = pq.read_table(run / f"{name}.parquet")[table].to_pylist()
        assert ids_sha256(ids) == getattr(Dataset(tiny.data).manifest, name).ids_sha256
    ranker = RankerRun(run).ranker()
    dataset, window = validation_window(tiny)
    examples = list(tf.data.TFRecordDataset(str(run / "example_pages.tfrecord")).as_numpy_iterator())
    assert examples == list(page_records(dataset, "train", window=window).as_numpy_iterator())
    assert ranker(parse_pages(tf.constant(examples), ranker.config.lengths))["ctr"].shape == (12, 6)


def test_the_loaded_ranker_is_the_one_validated(tiny, run):
    metadata = read_metadata(RankerMetadata, run, "models.train_ctr")
    dataset, window = validation_window(tiny)
    ranker = RankerRun(run).ranker()
    again = measure(
        score_pages(ranker, page_batches(dataset, "train", ranker.config.lengths, batch_size=5, window=window))
    )
    for name in ("auc", "gauc_page_mean", "log_loss", "candidates", "pages"):
        assert metadata.validation[name] == pytest.approx(again[name], rel=1e-4)


def test_training_counts_cover_all_train_pages_and_whole_histories(tiny, run):
    counts = np.load(run / "training_counts.npy")
    expected = np.zeros(len(counts), int)
    lengths = RankerRun(run).ranker().config.lengths.model_copy(update={"click": 1000, "pay": 1000})
    for page in page_batches(Dataset(tiny.data), "train", lengths, batch_size=64).as_numpy_iterator():
        for name in ("item", "click_item", "pay_item"):
            np.add.at(expected, page[name][page[name] != -1], 1)
    np.testing.assert_array_equal(counts, expected)
    assert (counts[48:] == 0).all()  # the last fifth of the items is on test pages only


def test_ids_are_known_from_pages_before_validation_only(tiny, run):
    dataset, window = validation_window(tiny)
    before = np.zeros(len(dataset.items()), int)
    lengths = RankerRun(run).ranker().config.lengths.model_copy(update={"click": 1000, "pay": 1000})
    for page in page_batches(dataset, "train", lengths, batch_size=1).as_numpy_iterator():
        if page["timestamp"][0] < window.first:
            for name in ("item", "click_item", "pay_item"):
                np.add.at(before, page[name][page[name] != -1], 1)
    known = RankerRun(run).ranker().items.features.tables["item_id"].numpy()[:-1] > 0
    np.testing.assert_array_equal(known, before >= 2)


def edit(path, change):
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def test_what_cannot_work_is_refused_before_work_and_leaves_nothing(tiny, tmp_path):
    output = tmp_path / "run"

    def refused(message, *options, data=tiny.data, embeddings=tiny.embeddings, clusters=tiny.clusters):
        paths = ["--data", data, "--embeddings", embeddings, "--clusters", clusters, "--output", output]
        with pytest.raises(CommandError, match=message):
            train_ctr.main([*map(str, paths), *options])
        assert not output.exists()

    nowhere = tmp_path / "nowhere"
    refused("--data: no directory .*nowhere; beam_pipelines.build makes it", data=nowhere)
    refused("--clusters: .*nowhere has no metadata.json", clusters=nowhere)
    refused("--embeddings: .*nowhere has no metadata.json", "--image-feature", "simscore", embeddings=nowhere)
    refused("unknown key epoch ", "--set", "epoch=1")
    refused("none for validation", "--set", "validation_share=0.001", "--image-feature", "none")

    other = tmp_path / "other"
    shutil.copytree(tiny.embeddings, other)
    edit(other / "metadata.json", lambda m: m.update(item_ids_sha256="0"))
    refused("--embeddings: made for the items of another dataset", "--image-feature", "vector", embeddings=other)
    shutil.rmtree(other)
    shutil.copytree(tiny.clusters, other)
    edit(other / "metadata.json", lambda m: m["embeddings"].update(pictures_sha256="0"))
    refused("--clusters: made from other pictures than those of", clusters=other)

    overlapping = tmp_path / "overlapping"
    shutil.copytree(tiny.clusters, overlapping)
    train_window = Dataset(tiny.data).split("train").window.model_dump()
    edit(overlapping / "metadata.json", lambda m: m["embeddings"]["encoder"].update(window=train_window))
    refused("--clusters: its encoder learned on pages .* overlap .* --allow-window-overlap", clusters=overlapping)

    output.mkdir()
    with pytest.raises(CommandError, match="exists; pass --overwrite"):
        train(tiny, output)


def test_pictures_of_an_overlapping_encoder_can_be_allowed(tiny, tmp_path):
    overlapping = tmp_path / "overlapping"
    shutil.copytree(tiny.embeddings, overlapping)
    window = Dataset(tiny.data).split("train").window.model_dump()
    edit(overlapping / "metadata.json", lambda m: m["encoder"].update(window=window))
    options = ["--image-feature", "simscore", "--set", "epochs=1", "--set", "ranker.attention.recent_steps=0"]
    train(tiny._replace(embeddings=overlapping), tmp_path / "run", "--allow-window-overlap", *options)
    metadata = read_metadata(RankerMetadata, tmp_path / "run", "models.train_ctr")
    assert metadata.image_feature == "simscore"
    assert metadata.embeddings == read_metadata(EmbeddingsMetadata, overlapping, "models.embed")
    assert RankerRun(tmp_path / "run").ranker().image_feature == "simscore"


def test_pictures_may_enter_in_several_ways_from_several_embeddings(tiny, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(tiny.embeddings, again)
    edit(again / "metadata.json", lambda m: m["encoder"].update(notice="another"))
    lengths = ["--set", "ranker.lengths.click=0", "--set", "ranker.lengths.pay=0", "--set", "epochs=1"]
    with_make = [*lengths, "--set", "make.epochs=1", "--set", "ranker.lengths.click=3"]
    features = "vector,cluster_id,semantic_id,make"
    options = ["--image-feature", features, "--embeddings", tiny.embeddings, again, *with_make]
    with pytest.raises(CommandError, match=r"clusters has one level, and semantic_id needs clusters of several levels"):
        train(tiny, tmp_path / "run", *map(str, options))
    tiny = tiny._replace(clusters=cluster(tiny.embeddings, tmp_path / "levels", num_clusters=3, levels=2).path)
    train(tiny, tmp_path / "run", *map(str, options))
    metadata = read_metadata(RankerMetadata, tmp_path / "run", "models.train_ctr")
    assert metadata.image_feature == features
    assert metadata.embeddings == tuple(
        read_metadata(EmbeddingsMetadata, path, "models.embed") for path in (tiny.embeddings, again)
    )
    assert metadata.clusters == read_metadata(ClustersMetadata, tiny.clusters, "models.cluster")
    ranker = RankerRun(tmp_path / "run").ranker()
    assert len(ranker.sizes.image_dims) == len(ranker.items.pictures.towers) == 2
    assert all(tower.is_trained() for tower in ranker.items.pictures.towers)
    assert not (tmp_path / "run.make.checkpoints").exists()
    numbers = ranker.items.pictures.tables["semantic"].numpy() - 1
    np.testing.assert_array_equal(numbers, [*Clusters.load(tiny.clusters).semantic_ids, -1])
    with pytest.raises(CommandError, match="lengths: the image feature make needs a history; all are 0"):
        train(tiny, tmp_path / "other", "--image-feature", "make", *lengths)
    with pytest.raises(CommandError, match=r"--image-feature must be of none, vector, .* Received: pixels"):
        train(tiny, tmp_path / "other", "--image-feature", "pixels")


@pytest.fixture(scope="module", params=[1.0, 0.25])
def sampled(request, tmp_path_factory):
    """The same pages with all of the unclicked candidates and with a quarter of them, and what learned on them."""
    root = tmp_path_factory.mktemp("sampled")
    tiny = write_tiny_dataset(root, items=60, pages=800, train_negatives=request.param)
    options = {"epochs": 1, "batch_size": 4, "learning_rate": 0.002, "calibration": "none"}
    options |= {"ranker.lengths.click": 0, "ranker.lengths.pay": 0}
    overrides = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    train(tiny, root / "run", "--image-feature", "none", *overrides)
    return tiny, root / "run", request.param


def test_predictions_are_calibrated_whatever_share_of_negatives_was_kept(sampled):
    tiny, run, rate = sampled
    ranker = RankerRun(run).ranker()
    assert read_metadata(RankerMetadata, run, "models.train_ctr").negative_rate == rate
    pages = list(page_batches(Dataset(tiny.data), "test", ranker.config.lengths, batch_size=64))
    scores = score_pages(ranker, pages)
    true = scores.clicked.mean()
    assert 0.1 < true < 0.4
    assert scores.ctr.mean() == pytest.approx(true, abs=0.06)
    uncorrected = np.concatenate([tf.sigmoid(ranker.logits(page)["ctr"]).numpy()[page["item"] != -1] for page in pages])
    if rate == 1:
        np.testing.assert_allclose(uncorrected, scores.ctr, rtol=1e-3)
    else:
        assert uncorrected.mean() > true + 0.2


def test_validation_loss_stands_for_all_candidates(sampled):
    tiny, run, rate = sampled
    validation = read_metadata(RankerMetadata, run, "models.train_ctr").validation
    dataset, ranker = Dataset(tiny.data), RankerRun(run).ranker()
    timestamps = np.sort(page_timestamps(dataset, "train"))
    late = timestamps[len(timestamps) - round(len(timestamps) * 0.1)]
    window = Window(first=int(late), last=int(timestamps[-1]))
    pages = page_batches(dataset, "train", ranker.config.lengths, batch_size=64, window=window)
    assert validation["log_loss"] == pytest.approx(measure(score_pages(ranker, pages), rate)["log_loss"], rel=1e-4)


def test_clicked_candidates_alone_teach_nothing(tmp_path):
    tiny = write_tiny_dataset(tmp_path, items=60, pages=60, train_negatives=0.0)
    with pytest.raises(CommandError, match=r"--data: .* clicked candidates only; build it with `train_negatives`"):
        train(tiny, tmp_path / "run", "--image-feature", "none")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    """Pages of two candidates, of which the last two have a click of both and none; the others are mixed."""
    root = tmp_path_factory.mktemp("separate")
    return write_tiny_dataset(root, items=60, pages=40, candidates=2, click_rates=(1.0, 0.0), seed=5)


@pytest.mark.parametrize(
    ("rate", "options", "message"),
    [
        (1.0, [], "--data: the .* train pages to learn on, .* have clicked candidates only"),
        (0.0, [], "--data: the .* train pages to learn on, .* have no clicked candidate"),
        (
            None,
            ["validation_share=0.025"],
            "--data: the 1 train pages that validate, .* have clicked candidates only; raise",
        ),
        (
            None,
            ["validation_share=0.05"],
            "^monitor: gauc_page_mean is undefined, for no page of the train pages that",
        ),
        (
            None,
            ["validation_share=0.05", "monitor=gauc_user_mean"],
            "^monitor: gauc_user_mean is undefined, for no user",
        ),
        (
            None,
            ["ranker.tasks.ctcvr=0.5"],
            "^ranker.tasks.ctcvr: none of the .* clicked candidates to learn on converted",
        ),
        (
            None,
            ["ranker.tasks.long_visit=0.5", "ranker.long_visit_seconds=7"],
            "ranker.tasks.long_visit: none of the .* clicked .* has a dwell time of 7 seconds or more",
        ),
        (None, ["ranker.tasks.dwell=0.5"], "ranker.tasks.dwell: none of the .* clicked candidates .* has a dwell time"),
    ],
)
def test_what_there_is_nothing_to_learn_or_measure_of_is_refused(separate, tmp_path, rate, options, message):
    tiny = separate if rate is None else write_tiny_dataset(tmp_path, items=60, pages=20, click_rates=(rate, rate))
    overrides = [word for option in options for word in ("--set", option)]
    with pytest.raises(CommandError, match=message):
        train(tiny, tmp_path / "run", "--image-feature", "none", *overrides)
    assert not (tmp_path / "run").exists()


def test_an_undefined_figure_is_null_and_takes_no_part_in_the_choice_of_the_epoch(separate, tmp_path):
    options = ["--set", "epochs=2", "--set", "validation_share=0.05", "--set", "monitor=auc"]
    line = train(separate, tmp_path / "run", "--image-feature", "none", *options)
    assert "validation GAUC undefined, AUC " in line
    history = json.loads((tmp_path / "run" / "history.json").read_text(), parse_constant=pytest.fail)
    assert history["val_gauc_page_mean"] == [None, None]
    metadata = json.loads((tmp_path / "run" / "metadata.json").read_text(), parse_constant=pytest.fail)
    assert metadata["validation"]["gauc_page_mean"] is None
    assert metadata["validation"]["epoch"] == 1 + np.argmax(history["val_auc"])


def test_a_run_goes_on_from_an_earlier_ranker(tiny, run, tmp_path, capsys):
    options = ["--set", "epochs=1", "--set", "learning_rate=0.000000001"]  # what it begins with is what it ends with
    train(tiny, tmp_path / "run", "--warm-start", str(run), *options)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("carried over: ")]
    known = RankerRun(run).ranker().sizes.item["item_id"]
    assert f"item.item_id {known} of {known}" in line
    assert "initialised" not in line
    weights = [RankerRun(path).ranker().get_weights() for path in (run, tmp_path / "run")]
    for before, after in zip(*weights, strict=True):
        if before.dtype == np.float32:
            np.testing.assert_allclose(before, after, atol=1e-5)
    with pytest.raises(CommandError, match=r"--warm-start: .* has no metadata.json; models.train_ctr makes it"):
        train(tiny, tmp_path / "other", "--warm-start", str(tmp_path))
    with pytest.raises(CommandError, match="--extend needs --warm-start"):
        train(tiny, tmp_path / "other", "--extend")
