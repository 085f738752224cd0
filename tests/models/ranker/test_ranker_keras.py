"""The ranker as a Keras model: compile, fit, evaluate, predict, save and load."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.features.spec import CategoryFeature, FeaturesConfig, IdFeature
from models.metrics.copc import COPC
from models.metrics.gauc import GAUC
from models.ranker.calibrator import Calibrator
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.train import train_ranker
from models.training.lazy_adam import LazyAdam
from tests.models.ranker.ranker_pages import two_replicas
from tests.models.tiny_dataset import write_tiny_dataset

SMALL = RankerConfig(
    lengths=RankerLengths(click=6, pay=0, cart=0),
    embedding_dim=4,
    item_dim=6,
    attention=AttentionConfig(recent_steps=4, units=5, histories="none"),
    mlp_units=(12, 8),
    token_buckets=50,
    query_tokens=5,
)
BARE = SMALL.model_copy(update={"lengths": RankerLengths(click=0, pay=0, cart=0)})
"""Reads no histories: less to trace."""
NO_DROPOUT = BARE.model_copy(
    update={
        "features": FeaturesConfig(
            item={"item_id": IdFeature(dropout=0.0), "category": CategoryFeature(match=True)}, user={}
        )
    }
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=60, pages=120)


@pytest.fixture(scope="module")
def pages(tiny):
    return Dataset(tiny.data).pages("train").split(0.9)


@pytest.fixture(scope="module")
def clusters(tiny):
    return Clusters.load(tiny.clusters)


@pytest.fixture(scope="module")
def early(pages):
    """`early(8)`: batches of the pages to learn on; those of one size are traced once."""
    return functools.cache(pages[0].batches)


@pytest.fixture(scope="module")
def late(pages):
    """`late(8)`: batches of the later pages."""
    return functools.cache(pages[1].batches)


@pytest.fixture
def ranker(pages, clusters):
    keras.utils.set_random_seed(0)
    return Ranker.adapt(pages[0], pictures=clusters, config=BARE)


@pytest.fixture(scope="module")
def untrained(pages, clusters):
    """Of tests that evaluate it alone."""
    keras.utils.set_random_seed(0)
    return Ranker.adapt(pages[0], pictures=clusters, config=BARE)


@pytest.fixture(scope="module")
def log_loss(untrained, late):
    untrained.compile("adam")
    return untrained.evaluate(late(5), return_dict=True, verbose=0)["loss"]


def flat(ranker, batches):
    """Labels and probabilities of all candidates, and the number of candidates of each page."""
    clicked, present = [], []
    for _, labels, mask in batches:
        clicked += [row[: int(count)] for row, count in zip(labels.numpy(), mask.numpy().sum(axis=1), strict=True)]
    scores = ranker.predict(batches, verbose=0)["ctr"]
    present = [len(row) for row in clicked]
    return np.concatenate(clicked), np.concatenate([s[:n] for s, n in zip(scores, present, strict=True)]), present


def test_a_script_trains_what_the_command_trains_to_the_last_bit(tiny, pages, clusters, tmp_path):
    config = TrainingConfig(ranker=SMALL, epochs=2, batch_size=16)
    run = train_ranker(tiny.data, tmp_path / "run", pictures=clusters, config=config, seed=3)
    train, later = pages
    keras.utils.set_random_seed(3)
    ranker = Ranker.adapt(train, pictures=clusters, config=SMALL)
    ranker.compile(metrics=[GAUC()])
    best = keras.callbacks.EarlyStopping("val_gauc", mode="max", patience=3, restore_best_weights=True)
    history = ranker.fit(
        train.batches(16, shuffle=True, seed=3),
        validation_data=later.batches(128),
        epochs=2,
        callbacks=[best],
        verbose=0,
    ).history
    np.testing.assert_allclose(history["val_gauc"], run.history()["val_gauc_page_mean"], rtol=1e-5)
    assert history["loss"] == run.history()["loss"]
    for actual, expected in zip(ranker.get_weights(), run.ranker().get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_ranker_whose_tables_are_empty_refuses_to_learn(ranker, early):
    empty = Ranker.from_config(ranker.get_config())
    empty.compile()
    with pytest.raises(ValueError, match=r"tables of this ranker are empty: make it with `Ranker.adapt\(pages\)`"):
        empty.fit(early(16), verbose=0)


def test_validation_is_evaluation_with_the_averaged_weights_which_are_kept(ranker, early, late):
    ranker.compile(metrics=[GAUC(), "auc", keras.metrics.BinaryAccuracy(name="accuracy")])
    assert isinstance(ranker.optimizer, LazyAdam)
    history = ranker.fit(early(16), validation_data=late(5), epochs=2, verbose=0).history
    logs = ranker.evaluate(late(5), return_dict=True, verbose=0)
    for name, value in logs.items():
        assert history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-5), name
    clicked, ctr, lengths = flat(ranker, late(7))
    assert logs["loss"] == pytest.approx(-np.where(clicked == 1, np.log(ctr), np.log1p(-ctr)).mean(), rel=1e-4)
    assert logs["accuracy"] == pytest.approx(((ctr > 0.5) == (clicked == 1)).mean(), rel=1e-5)
    aucs = []
    for page in np.split(np.arange(len(ctr)), np.cumsum(lengths)[:-1]):
        up, down = ctr[page][clicked[page] == 1], ctr[page][clicked[page] == 0]
        if len(up) and len(down):
            aucs.append(((up[:, None] > down) + 0.5 * (up[:, None] == down)).mean())
    assert logs["gauc"] == pytest.approx(np.mean(aucs), rel=1e-5)
    assert logs["auc"] == pytest.approx(0.5, abs=0.5)


def test_two_replicas_measure_what_one_does(pages, clusters, early, late):
    logs = []
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            ranker = Ranker.adapt(pages[0], pictures=clusters, config=NO_DROPOUT)
            # A graph would take longer than the few steps of the one that is compared with.
            options = {"run_eagerly": strategy.num_replicas_in_sync == 1}
            metrics = [GAUC(), COPC(), keras.metrics.BinaryAccuracy()]
            ranker.compile(keras.optimizers.SGD(0.1), metrics=metrics, **options)
        history = ranker.fit(early(50), validation_data=late(5), epochs=1, verbose=0).history
        logs.append({name: values[0] for name, values in history.items()})
        evaluated = ranker.evaluate(late(5), return_dict=True, verbose=0)
        assert {f"val_{name}": value for name, value in evaluated.items()} == pytest.approx(
            {name: value for name, value in logs[-1].items() if name.startswith("val_")}, rel=1e-5
        )
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)


def test_a_saved_ranker_predicts_and_learns_on_as_it_would_have(pages, clusters, early, late, tmp_path):
    # Saved models of Keras have no random states.
    features = FeaturesConfig(
        item={"item_id": IdFeature(dropout=0.0), "category": CategoryFeature(match=True)}, user={}
    )
    ranker = Ranker.adapt(pages[0], pictures=clusters, config=SMALL.model_copy(update={"features": features}))
    ranker.compile(metrics=[GAUC()])
    ranker.calibrator = Calibrator(kind="platt", x=(0.0,), y=(-0.5,), slope=1.5)
    ranker.fit(early(16), epochs=1, verbose=0)
    page, _, _ = next(iter(late(12)))
    scores = ranker(page)["ctr"]
    ranker.save(tmp_path / "ranker.keras")
    loaded = keras.models.load_model(tmp_path / "ranker.keras")
    assert loaded.vocabulary == ranker.vocabulary
    assert loaded.calibrator == ranker.calibrator
    assert loaded.get_config() == ranker.get_config()
    np.testing.assert_array_equal(loaded(page)["ctr"], scores)
    losses = [each.fit(early(16), epochs=1, verbose=0).history for each in (ranker, loaded)]
    assert losses[0] == losses[1]
    for a, b in zip(ranker.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    ranker.summary(print_fn=lambda *_, **__: None)


def test_predictions_of_batches_of_any_length_are_one_array(pages, clusters, late):
    ranker = Ranker.adapt(pages[0], pictures=clusters, config=SMALL)
    batches = late(1)
    lengths = {int(mask.shape[1]) for _, _, mask in batches}
    assert len(lengths) > 1
    scores = ranker.predict(batches, verbose=0)
    whole = ranker(next(iter(late(len(pages[1]))))[0])
    assert scores["ctr"].shape == (len(pages[1]), max(lengths))
    np.testing.assert_allclose(scores["ctr"], whole["ctr"], rtol=1e-4)


def squared(y_true, y_pred):
    """Of probabilities, page-wise; padding has the label -1."""
    assert y_pred.shape.rank == 2
    return tf.square(y_true - tf.sigmoid(y_pred))


def pairwise(y_true, y_pred):
    """One loss per page, of its clicked candidates against the others."""
    up, down = (tf.cast(y_true == label, tf.float32) for label in (1.0, 0.0))
    pairs = up[:, :, None] * down[:, None, :]
    losses = tf.nn.softplus(y_pred[:, None, :] - y_pred[:, :, None])
    return tf.math.divide_no_nan(tf.reduce_sum(pairs * losses, axis=(1, 2)), tf.reduce_sum(pairs, axis=(1, 2)))


@pytest.mark.parametrize(
    "loss",
    ["binary_crossentropy", keras.losses.BinaryCrossentropy(from_logits=True), keras.losses.BinaryFocalCrossentropy],
)
def test_losses_of_keras_never_see_padding(untrained, log_loss, late, loss):
    if isinstance(loss, type):
        loss = loss(from_logits=True, gamma=0.0, apply_class_balancing=False)
    untrained.compile("adam", loss=loss)
    losses = [untrained.evaluate(late(n), return_dict=True, verbose=0)["loss"] for n in (1, 5, 12)]
    np.testing.assert_allclose(losses, log_loss, rtol=1e-4)


def test_losses_of_one_s_own_see_pages(ranker, early, late):
    clicked, ctr, lengths = flat(ranker, late(5))
    ranker.compile(loss=squared)
    logs = [ranker.evaluate(late(n), return_dict=True, verbose=0)["loss"] for n in (1, 12)]
    np.testing.assert_allclose(logs, np.square(clicked - ctr).mean(), rtol=1e-4)
    ranker.compile(loss=pairwise)
    logs = [ranker.evaluate(late(n), return_dict=True, verbose=0)["loss"] for n in (1, 12)]
    logits, means = np.log(ctr) - np.log1p(-ctr), []
    for page in np.split(np.arange(len(ctr)), np.cumsum(lengths)[:-1]):
        up, down = logits[page][clicked[page] == 1], logits[page][clicked[page] == 0]
        means.append(np.log1p(np.exp(down - up[:, None])).mean() if len(up) and len(down) else 0.0)
    np.testing.assert_allclose(logs, np.mean(means), rtol=1e-3)
    before = ranker.get_weights()
    ranker.compile(loss=pairwise, run_eagerly=True)  # two steps: a graph would take longer
    ranker.fit(early(54), epochs=1, verbose=0)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, ranker.get_weights(), strict=True))


def test_compile_refuses_what_would_go_wrong_quietly(ranker):
    with pytest.raises(ValueError, match=r"`loss` must take log-odds: BinaryCrossentropy\(from_logits=True\)"):
        ranker.compile(loss=keras.losses.BinaryCrossentropy())
    with pytest.raises(ValueError, match="`jit_compile` must be False or 'auto'"):
        ranker.compile(jit_compile=True)
    with pytest.raises(ValueError, match="`metrics` must be a list"):
        ranker.compile(metrics={"ctr": GAUC()})
    with pytest.raises(ValueError, match="A ranker has no loss_weights"):
        ranker.compile(loss_weights=[1.0])


def test_labels_of_the_tasks_must_be_there(pages, clusters, early, late):
    config = BARE.model_copy(update={"tasks": BARE.tasks.model_copy(update={"ctcvr": 0.5, "dwell": 0.2})})
    ranker = Ranker.adapt(pages[0], pictures=clusters, config=config)
    ranker.compile(metrics=[GAUC()], run_eagerly=True)
    with pytest.raises(ValueError, match=r"Missing: converted, dwell"):
        ranker.fit(early(16), verbose=0)
    batches = early(54, labels=("clicked", "converted", "dwell"))
    logs = ranker.fit(batches, epochs=1, verbose=0).history
    assert set(logs) == {"loss", "ctr_loss", "ctcvr_loss", "dwell_loss", "gauc"}
    assert set(ranker.predict(late(16), verbose=0)) == {"ctr", "ctcvr", "dwell"}


@pytest.mark.parametrize(("policy", "config"), [("mixed_bfloat16", BARE), ("mixed_float16", SMALL)])
def test_half_precision_trains_and_is_saved_as_such(pages, clusters, early, late, policy, config, tmp_path):
    keras.utils.set_random_seed(0)
    ranker = Ranker.adapt(pages[0], pictures=clusters, config=config, dtype=policy)
    assert ranker.members[0].mlp_candidate.compute_dtype == policy.removeprefix("mixed_")
    ranker.compile(metrics=[GAUC()])
    losses = ranker.fit(early(16), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    scores = ranker.predict(late(16), verbose=0)["ctr"]
    assert scores.dtype == np.float32
    ranker.save(tmp_path / "ranker.keras")
    loaded = keras.models.load_model(tmp_path / "ranker.keras")
    assert loaded.dtype_policy.name == policy
    assert type(loaded.optimizer) is type(ranker.optimizer)
    np.testing.assert_allclose(loaded.predict(late(16), verbose=0)["ctr"], scores, atol=1e-3)


def test_callbacks_of_keras_keep_the_averaged_ranker(ranker, early, late, tmp_path):
    ranker.compile(metrics=[GAUC()])
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_gauc", mode="max"),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
    ]
    ranker.fit(early(40), validation_data=late(128), epochs=1, callbacks=callbacks, verbose=0)
    kept = keras.models.load_model(tmp_path / "best.keras")
    for a, b in zip(kept.get_weights(), ranker.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kept.run_eagerly = True
    logs = kept.evaluate(late(128), return_dict=True, verbose=0)
    assert logs == pytest.approx(ranker.evaluate(late(128), return_dict=True, verbose=0))


def test_pictures_must_be_those_of_the_dataset_and_of_the_feature(pages, clusters):
    with pytest.raises(ValueError, match="`pictures` must be Embeddings for the image feature vector"):
        Ranker.adapt(pages[0], pictures=clusters, image_feature="vector", config=BARE)
    with pytest.raises(ValueError, match="`pictures` must be unset for the image feature none"):
        Ranker.adapt(pages[0], pictures=clusters, image_feature="none", config=BARE)
    with pytest.raises(ValueError, match="`pictures` must be Clusters for the image feature cluster_id"):
        Ranker.adapt(pages[0], image_feature="cluster_id", config=BARE)
    with pytest.raises(ValueError, match="must be Embeddings and Clusters for the image features vector, cluster_id"):
        Ranker.adapt(pages[0], pictures=[clusters], image_feature=["vector", "cluster_id"], config=BARE)
    attention = AttentionConfig(similarity_aware=True)
    with pytest.raises(ConfigurationError, match="need an image feature that compares"):
        Ranker.adapt(pages[0], config=BARE.model_copy(update={"attention": attention}))


def test_every_layer_has_a_configuration_that_makes_it_again(pages, clusters):
    ranker = Ranker.adapt(pages[0], pictures=clusters, config=SMALL)
    member = ranker.members[0]
    layers = [ranker.items, ranker.items.features, ranker.items.pictures, ranker.users, ranker.dense, member.items]
    for layer in [*layers, member.users, member.text, member.age, *member.recent_attention.values()]:
        config = layer.get_config()
        again = type(layer).from_config(config)
        assert again.get_config() == config
        if again.built:
            assert [v.shape for v in again.variables] == [v.shape for v in layer.variables]
    again = Ranker.from_config(ranker.get_config())
    assert again.get_config() == ranker.get_config()
    assert [v.shape for v in again.variables] == [v.shape for v in ranker.variables]
