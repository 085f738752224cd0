import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from models.data.pages import page_batches
from models.evaluation.scored_pages import score_pages
from models.features.adapt import adapt_features
from models.features.spec import STATISTICS, FeaturesConfig, IdFeature
from models.layers.text_embedding import TextEmbedding, hash_tokens
from models.ranker.calibrator import Calibrator
from models.ranker.config import RankerLengths
from models.ranker.ranker import Ranker
from tests.models.ranker.ranker_pages import (
    CONFIG,
    IMAGE_FEATURE_SETS,
    PAGE_LENGTHS,
    all_tasks,
    ctr,
    gradients_of,
    inputs_of,
    labels_of,
    last,
    loss_of,
    sigmoid,
    two_replicas,
    with_tasks,
)

CLICKS = {
    "lengths": RankerLengths(candidates=6, click=12, pay=0, cart=0),
    "attention": CONFIG.attention.model_copy(update={"histories": "none"}),
}
"""Less to trace: one history, its newest steps."""


def test_scores_are_probabilities_and_padding_is_exactly_zero(ranker, page):
    scores, present = ctr(ranker, page), page["item"].numpy() != -1
    assert scores.shape == present.shape
    assert scores.dtype == np.float32
    assert not present.all()
    assert (scores[~present] == 0).all()
    assert ((scores[present] > 0) & (scores[present] < 1)).all()
    assert np.unique(scores[present]).size > present.sum() * 0.9


def test_score_is_the_compiled_call(ranker, page):
    np.testing.assert_allclose(ranker.score(inputs_of(page))["ctr"], ctr(ranker, page), rtol=1e-4)


def test_nothing_is_traced_while_functions_run_eagerly(make, page):
    ranker, calls = make("none"), []
    scores_of_logits = ranker.scores_of_logits
    ranker.scores_of_logits = lambda *inputs: calls.append(tf.executing_eagerly()) or scores_of_logits(*inputs)
    tf.config.run_functions_eagerly(True)
    try:
        scores = ranker.score(inputs_of(page))["ctr"]
    finally:
        tf.config.run_functions_eagerly(False)
    assert calls == [True]
    np.testing.assert_allclose(scores, ctr(ranker, page), rtol=1e-6)


def test_a_candidate_is_scored_without_regard_to_the_others(ranker, page):
    scores = ctr(ranker, page)
    candidates = {name: page[name] for name in ("item", "position", *STATISTICS)}
    for order in ([1, 0, 2, 3, 4, 5], [2], [4, 4, 0]):
        other = page | {name: tf.gather(values, order, axis=1) for name, values in candidates.items()}
        np.testing.assert_allclose(ctr(ranker, other), scores[:, order], rtol=1e-4, atol=1e-6)


def test_a_page_is_scored_without_regard_to_the_batch(ranker, page):
    alone = {name: values[3:4] for name, values in page.items()}
    np.testing.assert_allclose(ctr(ranker, alone), ctr(ranker, page)[3:4], rtol=1e-4, atol=1e-6)


def test_more_padding_changes_nothing(ranker, page):
    def pad(values):
        return tf.pad(values, ((0, 0), (0, 3)), constant_values=-1)

    padded = page | {name: pad(page[name]) for name in (*STATISTICS, "item", "position")}
    padded |= {name: pad(page[name]) for name in page if name.endswith(("_item", "_time"))}
    np.testing.assert_allclose(ctr(ranker, padded)[:, :6], ctr(ranker, page), rtol=1e-4, atol=1e-6)


def test_any_length_may_be_zero(ranker, page):
    no_history = page | {
        name: values[:, :0] for name, values in page.items() if name.startswith(("click_", "pay_", "cart_"))
    }
    empty_history = page | {
        name: tf.fill(page[name].shape, tf.constant(-1, tf.int64))
        for name in no_history
        if name.startswith(("click_", "pay_", "cart_"))
    }
    np.testing.assert_allclose(ctr(ranker, no_history), ctr(ranker, empty_history), rtol=1e-5)
    assert ctr(ranker, page | {name: page[name][:, :0] for name in ("item", *STATISTICS)}).shape == (24, 0)
    assert ctr(ranker, {name: values[:0] for name, values in page.items()}).shape == (0, 6)


def test_attention_weights_are_shares_of_the_steps_of_a_page_alone(ranker, page):
    attention = ranker.attention_weights(inputs_of(page))
    assert list(attention) == ["click", "pay", "cart"]
    alone = ranker.attention_weights({name: values[3:4] for name, values in inputs_of(page).items()})
    for name, weights in attention.items():
        present = page[f"{name}_item"].numpy() != -1
        assert not present.all()
        whole, recent = weights.whole.numpy(), weights.recent.numpy()
        assert whole.shape == (24, CONFIG.attention.heads, 6, present.shape[1])
        np.testing.assert_allclose(whole.sum(-1), np.broadcast_to(present.any(1)[:, None, None], whole.shape[:3]), 1e-5)
        assert ((whole > 0) == present[:, None, None]).all()
        assert recent.shape == (24, 6, min(CONFIG.attention.recent_steps, present.shape[1]))
        assert not np.moveaxis(recent, 1, 2)[~present[:, : recent.shape[2]]].any()
        for in_batch, by_itself in ((whole, alone[name].whole), (recent, alone[name].recent)):
            np.testing.assert_allclose(by_itself, in_batch[3:4], rtol=1e-3, atol=1e-5)


def test_attention_is_where_the_layer_is_told_to_look(make, page):
    """Without queries, all steps count alike; with a large weight of the first pair, those of the candidate's item."""
    ranker = make("none", CONFIG.model_copy(update={"members": 2}))
    for member in ranker.members:
        member.attention.query_kernel.assign(0 * member.attention.query_kernel)
        member.attention.query_bias.assign(0 * member.attention.query_bias)
        member.attention.pair_kernel.assign(0 * member.attention.pair_kernel)
    candidates, steps = page["item"].numpy(), page["click_item"].numpy()
    present = steps != -1
    shares = present / np.maximum(present.sum(1, keepdims=True), 1)
    whole = ranker.attention_weights(inputs_of(page))["click"].whole
    np.testing.assert_allclose(whole, np.broadcast_to(shares[:, None, None], whole.shape), rtol=1e-5)
    one_item = np.eye(1, ranker.members[0].attention.pair_features).T @ np.ones((1, 2))
    ranker.members[1].attention.pair_kernel.assign(1000 * one_item)
    same = (candidates[:, :, None] == steps[:, None, :]) & present[:, None, :]
    assert same.any()
    found = same.any(-1)
    expected = (same[found] / same.sum(-1)[found][:, None] + np.broadcast_to(shares[:, None], same.shape)[found]) / 2
    whole = ranker.attention_weights(inputs_of(page))["click"].whole.numpy()
    for head in range(whole.shape[1]):
        np.testing.assert_allclose(whole[:, head][found], expected, rtol=1e-5)


@pytest.mark.parametrize("option", ["recent steps alone", "no recent steps", "self-attention", "no histories"])
def test_attention_weights_are_of_the_layers_that_there_are(make, page, option):
    attention = make("none", CONFIG.model_copy(update=OPTIONS[option])).attention_weights(inputs_of(page))
    found = {(weights.recent is not None, weights.whole is not None) for weights in attention.values()}
    expected = {"recent steps alone": {(True, False)}, "no recent steps": {(False, True)}}
    assert found == expected.get(option, {(True, False)} if option == "self-attention" else set())


def test_unknown_items_and_users_are_scored(ranker, page):
    items, users = ranker.sizes.items, ranker.sizes.users
    unknown = {name: tf.fill(page[name].shape, tf.constant(items, tf.int64)) for name in ("item", "click_item")}
    scores = ctr(ranker, page | unknown | {"user": tf.fill(page["user"].shape, tf.constant(-1, tf.int64))})
    assert np.isfinite(scores).all()
    same_user = ctr(ranker, page | unknown | {"user": tf.fill(page["user"].shape, tf.constant(users, tf.int64))})
    np.testing.assert_array_equal(scores, same_user)


def test_labels_and_positions_are_no_inputs(ranker, page):
    scores = ctr(ranker, page)
    other = page | {
        "clicked": 1 - page["clicked"],
        "position": page["position"] * 0 + 9,
        "page_id": page["page_id"] + "x",
    }
    np.testing.assert_array_equal(ranker(other)["ctr"], scores)


def test_label_columns_never_reach_a_table(dataset, counts, resolve):
    items = dataset.items()
    shuffled = items.set_column(
        items.column_names.index("label_style"), "label_style", pa.array(items["label_style"].to_pylist()[::-1])
    )
    features = resolve(CONFIG).features
    tables = [adapt_features(features, table, dataset.users(), counts, token_buckets=50) for table in (items, shuffled)]
    assert tables[0].sizes == tables[1].sizes
    for name, rows in tables[0].items.items():
        np.testing.assert_array_equal(rows, tables[1].items[name])


@pytest.mark.parametrize("rate", [0.25, 0.003])
def test_predictions_are_those_for_pages_with_all_negatives(make, page, rate):
    config = CONFIG.model_copy(update=CLICKS)
    whole, sampled = make("none", config), make("none", config, negative_rate=rate)
    p, corrected, present = np.float64(ctr(whole, page)), ctr(sampled, page), page["item"].numpy() != -1
    # Of 1 clicked and n unclicked candidates, sampling leaves 1 and n * rate.
    np.testing.assert_allclose(corrected, rate * p / (rate * p + 1 - p), rtol=1e-4)
    np.testing.assert_array_equal(corrected[~present], 0)
    np.testing.assert_allclose(sampled.score(inputs_of(page))["ctr"], corrected, rtol=1e-4)
    for before, after, kept in zip(p, corrected, present, strict=True):
        np.testing.assert_array_equal(np.argsort(before[kept]), np.argsort(after[kept]))
    np.testing.assert_array_equal(loss_of(sampled, page), loss_of(whole, page))
    for ours, theirs in zip(gradients_of(sampled, page)[1], gradients_of(whole, page)[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_rate_must_leave_something(make):
    for rate in (0.0, 1.5):
        with pytest.raises(ValueError, match="`negative_rate` must be above 0"):
            make("none", negative_rate=rate)


@pytest.mark.parametrize("image_feature", IMAGE_FEATURE_SETS)
def test_every_weight_learns_and_no_table_does(make, page, image_feature):
    ranker = make(image_feature)
    carts = page | {"cart_item": page["pay_item"][:, :3], "cart_time": page["pay_time"][:, :3]}  # these logs have none
    _, gradients = gradients_of(ranker, carts)
    still = [v.path for v, gradient in zip(ranker.trainable_variables, gradients, strict=True) if not np.any(gradient)]
    assert still == []
    tables = {id(table) for table in ranker.items.features.tables.values()}
    assert len(tables) == 4
    assert tables <= {id(variable) for variable in ranker.non_trainable_variables}


@pytest.mark.parametrize(("image_feature", "sizes"), [("simscore", (7, 1)), ("cluster_id", (5, 0))])
@pytest.mark.parametrize("within_page", [0.0, 2.0])
def test_two_replicas_equal_one(make, page, image_feature, sizes, within_page):
    page = last(page, sum(sizes))
    config = with_tasks(pairwise=within_page, jrc=within_page)
    expected_loss, expected = gradients_of(make(image_feature, config), page)
    strategy = two_replicas()
    with strategy.scope():
        ranker = make(image_feature, config)
    shards = [{name: values[: sizes[0]] for name, values in page.items()}]
    shards.append({name: values[sizes[0] :] for name, values in page.items()})
    distributed = {
        name: strategy.experimental_distribute_values_from_function(
            lambda context, name=name: shards[context.replica_id_in_sync_group][name]
        )
        for name in page
    }

    # A graph of both replicas would take longer than the one step.
    values = strategy.run(lambda page: gradients_of(ranker, page), args=(distributed,))
    loss, *gradients = (strategy.reduce("SUM", value, axis=None) for value in (values[0], *values[1]))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_fit_learns_the_same_on_two_replicas_with_an_uneven_last_batch(make, dataset):
    config = CONFIG.model_copy(update=CLICKS)

    def fit(ranker):
        with ranker.distribute_strategy.scope():
            ranker.compile(optimizer=keras.optimizers.SGD(0.2, momentum=0.9))
            ranker.optimizer.build(ranker.trainable_variables)
        pages = page_batches(dataset, "train", PAGE_LENGTHS, batch_size=8).take(2).unbatch().take(9).batch(8)
        pages = pages.map(lambda page: (inputs_of(page), labels_of(page)))
        loss = ranker.fit(pages, verbose=0, shuffle=False).history["loss"][0]  # the last batch is one page
        return loss, ranker.get_weights()

    loss, weights = fit(make("cluster_id", config))
    with two_replicas().scope():
        ranker = make("cluster_id", config)
    sharded_loss, sharded_weights = fit(ranker)
    assert sharded_loss == pytest.approx(loss, rel=1e-4)
    begun = make("cluster_id", config).get_weights()
    assert sum(np.abs(a - b).sum() for a, b in zip(weights, begun, strict=True)) > 0.1
    for a, b in zip(weights, sharded_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_tokens_are_words_in_any_script():
    texts = tf.constant(["Red DRESS, red!", "red dress red", "", "  ...", "连衣裙 XL", "ÉTÉ", "été", "a b c d e f"])
    tokens = hash_tokens(texts, 1000, 4).numpy()
    assert tokens.shape == (8, 4)
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert tokens[0][0] == tokens[0][2] != tokens[0][1]
    assert (tokens[2:4] == -1).all()
    assert (tokens[4] != -1).all()  # three characters and a word
    assert tokens[5][0] == tokens[6][0]
    assert (tokens[7] != -1).all()
    assert hash_tokens(texts[:0], 1000, 4).shape == (0, 4)


def test_text_embedding_is_the_mean_over_tokens():
    layer = TextEmbedding(7, 3)
    tokens = tf.constant([[2, 5, -1], [-1, -1, -1], [4, 4, 4]])
    embedded, table = layer(tokens).numpy(), layer.get_weights()[0]
    np.testing.assert_allclose(embedded, [(table[2] + table[5]) / 2, np.zeros(3), table[4]], rtol=1e-6)


OPTIONS = {
    "dice": {"attention": CONFIG.attention.model_copy(update={"activation": "dice"})},
    "self-attention": {"attention": CONFIG.attention.model_copy(update={"histories": "self_attention"})},
    "recent steps alone": {"attention": CONFIG.attention.model_copy(update={"histories": "none"})},
    "no recent steps": {"attention": CONFIG.attention.model_copy(update={"recent_steps": 0})},
    "no histories": {"lengths": RankerLengths(candidates=6, click=0, pay=0, cart=0)},
    "cross": {"cross_layers": 2},
    "members": {"members": 3},
    "no query": {"features": CONFIG.features.model_copy(update={"query": False})},
    "bare": {"features": FeaturesConfig(item={"item_id": IdFeature(match=False)}, user={}, candidate={}, query=False)},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_scores_pages_without_regard_to_padding_or_others(make, page, option):
    ranker = make("none", CONFIG.model_copy(update=OPTIONS[option]))
    present = page["item"].numpy() != -1
    scores = ctr(ranker, page)
    assert np.isfinite(scores).all()
    assert np.std(scores[present]) > 1e-3
    histories = [name for name in page if name.startswith(("click_", "pay_", "cart_"))]
    padded = page | {name: tf.pad(page[name], ((0, 0), (0, 3)), constant_values=-1) for name in histories}
    np.testing.assert_allclose(ctr(ranker, padded), scores, rtol=1e-4, atol=1e-6)
    alone = {name: values[3:4] for name, values in page.items()}
    np.testing.assert_allclose(ctr(ranker, alone), scores[3:4], rtol=1e-4, atol=1e-6)
    empty = {name: tf.fill(page[name].shape, tf.constant(-1, tf.int64)) for name in histories}
    loss, gradients = gradients_of(ranker, page | empty)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("cross_layers", [0, 1])
def test_a_ranker_may_know_nothing_of_pages(make, page, cross_layers):
    """No history, nothing of the user, no query: what is left are the candidates."""
    features = FeaturesConfig(item={"item_id": IdFeature()}, user={}, candidate={}, query=False)
    lengths = RankerLengths(candidates=6, click=0, pay=0, cart=0)
    options = {"features": features, "lengths": lengths, "cross_layers": cross_layers}
    ranker = make("none", CONFIG.model_copy(update=options))
    scores = ctr(ranker, page)
    items = page["item"].numpy()
    present = items != -1
    assert np.unique(scores[present]).size > 10
    for item in np.unique(items[present])[:5]:  # an item has one score, wherever it is shown
        np.testing.assert_allclose(scores[items == item], scores[items == item][0], rtol=1e-5)


@pytest.mark.parametrize("image_feature", ["simscore", "cluster_id"])
def test_pages_of_one_candidate_are_scored_the_same(make, page, image_feature):
    """Page-wise and row-wise, as others do it, are the same function."""
    ranker = make(image_feature)
    per_candidate = ("item", "position", "clicked", "converted", "dwell", *STATISTICS)
    rows = {
        name: tf.reshape(values, (-1, 1)) if name in per_candidate else tf.repeat(values, 6, axis=0)
        for name, values in page.items()
    }
    scores = ctr(ranker, page)
    np.testing.assert_allclose(ctr(ranker, rows).reshape(scores.shape), scores, rtol=1e-4, atol=1e-6)
    assert float(loss_of(ranker, rows)) == pytest.approx(float(loss_of(ranker, page)), rel=1e-5)


def test_dropout_is_of_training_alone(make, page):
    ranker = make("none", CONFIG.model_copy(update={"mlp_dropout": 0.5}))
    first, again = (ranker.logits(inputs_of(page), training=True)["ctr"].numpy() for _ in range(2))
    present = page["item"].numpy() != -1
    assert np.abs(first - again)[present].mean() > 0.01
    np.testing.assert_array_equal(ctr(ranker, page), ctr(make("none"), page))


def test_padding_moves_no_statistics_of_dice(make, page):
    """Trap: Dice's moments over padded steps depend on how long the longest history of a batch is."""
    moments = []
    for more in (0, 5):
        ranker = make("none", CONFIG.model_copy(update=OPTIONS["dice"]))
        padded = {
            name: tf.pad(values, ((0, 0), (0, more)), constant_values=-1)
            if name.startswith(("click_", "pay_", "cart_"))
            else values
            for name, values in page.items()
        }
        ranker.logits(padded, training=True)
        moving = [v for v in ranker.non_trainable_variables if "moving" in v.path]
        assert len(moving) == 2 * len(ranker.histories)
        moments.append([v.numpy() for v in moving])
    for a, b in zip(*moments, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_calibration_changes_probabilities_and_no_order(make, page):
    ranker = make("none", CONFIG.model_copy(update=CLICKS), negative_rate=0.5)
    present = page["item"].numpy() != -1
    before = ranker.score(inputs_of(page))["ctr"].numpy()
    ranker.calibrator = Calibrator(kind="platt", x=(0.0,), y=(-1.0,), slope=2.0)
    after = ranker.score(inputs_of(page))["ctr"].numpy()
    logit = np.log(before[present]) - np.log1p(-before[present])
    np.testing.assert_allclose(after[present], sigmoid(2 * logit - 1), rtol=1e-3)
    assert (after[~present] == 0).all()


def test_calibrated_scores_are_those_of_a_calibrated_ranker(make, page):
    ranker = make("none", all_tasks().model_copy(update=CLICKS), negative_rate=0.5)
    before = score_pages(ranker, [page])
    ranker.calibrator = Calibrator(kind="isotonic", x=(-2.0, 0.0, 1.5), y=(-2.5, -1.0, 2.0), slope=0.7)
    expected, ours = score_pages(ranker, [page]), before.calibrated(ranker.calibrator)
    np.testing.assert_allclose(ours.ctr, expected.ctr, rtol=1e-4)
    np.testing.assert_allclose(ours.ctcvr, expected.ctcvr, rtol=1e-4)
    np.testing.assert_array_equal(ours.dwell, before.dwell)
    assert np.abs(ours.ctr - before.ctr).max() > 0.01


class PageSum(keras.layers.Layer):
    def call(self, page):
        return tf.cast(page["timestamp"], tf.float32)


@pytest.mark.parametrize("hook", ["candidate_tower", "page_tower"])
def test_a_tower_of_another_shape_is_refused_by_name(make, hook):
    ranker = make("none")
    kind = type("Wrong", (Ranker,), {hook: lambda self: PageSum()})
    with pytest.raises(ValueError, match=f"`{hook}` must return a layer from a page to features of shape"):
        kind(ranker.config, ranker.sizes)
