import numpy as np
import pytest
import tensorflow as tf

from models.features.spec import STATISTICS
from models.ranker.ranker import LOSS_WEIGHT, Ranker
from models.ranker.tasks import and_logit, make_targets
from tests.models.ranker.ranker_pages import (
    CONFIG,
    all_tasks,
    ctr,
    gradients_of,
    inputs_of,
    loss_of,
    sigmoid,
    with_labels,
    with_tasks,
)


def test_loss_is_the_mean_log_loss_of_present_candidates(ranker, page):
    scores, present = np.float64(ctr(ranker, page)), page["item"].numpy() != -1
    clicked = page["clicked"].numpy()
    losses = -np.where(clicked == 1, np.log(np.maximum(scores, 1e-12)), np.log1p(-scores))
    np.testing.assert_allclose(loss_of(ranker, page), losses[present].mean(), rtol=1e-4)
    assert loss_of(ranker, {name: values[:0] for name, values in page.items()}) == 0


def test_training_alone_adds_what_the_position_does(make, page):
    ranker = make("none")
    bias = ranker.members[0].position_bias.bias
    logits = np.float64(ranker.logits(inputs_of(page))["ctr"])
    present, clicked = page["item"].numpy() != -1, page["clicked"].numpy() == 1
    position = page["position"].numpy()
    assert position[present].max() > bias.shape[0]
    added = np.concatenate([[0], bias.numpy()])[np.clip(position, 0, bias.shape[0])]
    p = sigmoid(logits + added)
    loss, gradients = gradients_of(ranker, page)
    expected = -np.where(clicked, np.log(p), np.log1p(-p))[present].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(loss_of(ranker, page)) == pytest.approx(
        np.logaddexp(0, np.where(clicked, -logits, logits))[present].mean(), rel=1e-4
    )
    (gradient,) = [g for g, v in zip(gradients, ranker.trainable_variables, strict=True) if v is bias]
    counted = [present & (np.minimum(position, bias.shape[0]) == place) for place in range(1, 4)]
    by_hand = [((p - clicked) * rows).sum() / present.sum() for rows in counted]
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-3, atol=1e-6)


def test_tasks_share_a_page_and_obey_probability(make, page):
    ranker = make("none", all_tasks(), negative_rate=0.3)
    scores, logits = ranker(inputs_of(page)), ranker.logits(inputs_of(page))
    present = page["item"].numpy() != -1
    assert list(scores) == ["ctr", "ctcvr", "long_visit", "dwell"]
    cvr = sigmoid(logits["cvr"])
    expected = np.where(present, scores["ctr"].numpy() * cvr, 0)
    np.testing.assert_allclose(scores["ctcvr"], expected, rtol=1e-5)
    assert (scores["ctcvr"].numpy() <= scores["ctr"].numpy()).all()
    expected = np.where(present, scores["ctr"].numpy() * sigmoid(logits["visit"]), 0)
    np.testing.assert_allclose(scores["long_visit"], expected, rtol=1e-5)
    np.testing.assert_allclose(
        scores["dwell"], np.where(present, np.maximum(np.expm1(logits["dwell"]), 0), 0), rtol=1e-4
    )


def test_the_loss_is_the_weighted_sum_of_the_tasks_over_what_each_counts(make, page):
    page = with_labels(page)
    ranker = make("none", all_tasks())
    logits = {name: np.float64(values) for name, values in ranker.logits(inputs_of(page)).items()}
    present, clicked = page["item"].numpy() != -1, page["clicked"].numpy() == 1
    click, both = sigmoid(logits["ctr"]), sigmoid(logits["ctr"]) * sigmoid(logits["cvr"])
    log_loss = lambda p, y: -np.where(y, np.log(p), np.log1p(-p))[present].mean()  # noqa: E731
    off = np.abs(np.log1p(page["dwell"].numpy()) - logits["dwell"])[clicked]
    huber = np.where(off <= 1, off**2 / 2, off - 0.5).mean()
    expected = log_loss(click, clicked) + 0.5 * log_loss(both, page["converted"].numpy() == 1) + 0.25 * huber
    is_long = page["dwell"].numpy() >= ranker.config.long_visit_seconds
    assert 0 < (clicked & is_long).sum() < clicked.sum()
    expected += 0.125 * log_loss(click * sigmoid(logits["visit"]), clicked & is_long)
    np.testing.assert_allclose(loss_of(ranker, page), expected, rtol=1e-4)
    alone = make("none", all_tasks(ctcvr=0.0, long_visit=0.0, dwell=0.0))
    np.testing.assert_allclose(loss_of(alone, page), log_loss(click, clicked), rtol=1e-4)
    assert list(alone(inputs_of(page))) == ["ctr"]


def test_the_pairwise_loss_is_the_mean_over_pairs_of_a_page_and_then_over_pages(make, page):
    ranker, plain = make("none", with_tasks(pairwise=0.5)), make("none")
    logits = np.float64(ranker.logits(inputs_of(page))["ctr"])
    present, clicked = page["item"].numpy() != -1, page["clicked"].numpy() == 1
    of_pages = []
    for row in range(len(logits)):
        ups, downs = (logits[row][present[row] & chosen] for chosen in (clicked[row], ~clicked[row]))
        pairs = [np.log1p(np.exp(down - up)) for up in ups for down in downs]
        if pairs:
            of_pages.append(np.mean(pairs))
    assert 1 < len(of_pages) < len(logits)
    expected = loss_of(plain, page) + 0.5 * np.mean(of_pages)
    np.testing.assert_allclose(loss_of(ranker, page), expected, rtol=1e-5)
    assert float(ranker.get_metrics_result()["pairwise_loss"]) == pytest.approx(np.mean(of_pages), rel=1e-5)
    assert list(ranker(inputs_of(page))) == ranker.outputs == ["ctr"]
    for layer in ranker.members[0].heads.values():
        layer.kernel.assign(tf.zeros_like(layer.kernel))  # ties
    for metric in ranker.metrics:
        metric.reset_state()
    loss_of(ranker, page)
    assert float(ranker.get_metrics_result()["pairwise_loss"]) == pytest.approx(np.log(2), rel=1e-6)


def test_members_are_averaged_and_learn_as_they_would_alone(make, page):
    config = all_tasks(pairwise=0.5)
    together = make("cluster_id", config.model_copy(update={"members": 2}), negative_rate=0.5)
    alone = [make("cluster_id", config, seed) for seed in (1, 2)]
    for member, ranker in zip(together.members, alone, strict=True):
        member.set_weights(ranker.members[0].get_weights())
    of_alone = [ranker.logits(inputs_of(page)) for ranker in alone]
    for name, logits in together.logits(inputs_of(page)).items():
        first, second = (np.float64(each[name]) for each in of_alone)
        assert np.abs(first - second).mean() > 0.1
        np.testing.assert_allclose(logits, (first + second) / 2, rtol=1e-4, atol=1e-5)
    clicks, conversions = (sigmoid(together.logits(inputs_of(page))[name]) for name in ("ctr", "cvr"))
    ctr_of_all = 0.5 * clicks / (0.5 * clicks + 1 - clicks)
    present = page["item"].numpy() != -1
    np.testing.assert_allclose(ctr(together, page)[present], ctr_of_all[present], rtol=1e-4)
    scores = together(inputs_of(page))["ctcvr"].numpy()
    np.testing.assert_allclose(scores[present], (ctr_of_all * conversions)[present], rtol=1e-4)

    page = with_labels(page)
    loss, gradients = gradients_of(together, page)
    expected = [gradients_of(ranker, page) for ranker in alone]
    assert float(loss) == pytest.approx(sum(float(each) for each, _ in expected), rel=1e-5)
    for ours, theirs in zip(gradients, [g for _, each in expected for g in each], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    shown = [float(ranker.get_metrics_result()["loss"]) for ranker in (together, *alone)]
    assert shown[0] == pytest.approx(np.mean(shown[1:]), rel=1e-5)


def test_members_begin_otherwise_and_share_the_tables(make):
    ranker = make("simscore", CONFIG.model_copy(update={"members": 2}))
    tables = [v.path for v in ranker.non_trainable_variables if v.path.endswith(("/image", "/category"))]
    assert len(tables) == 2
    fresh = Ranker(ranker.config, ranker.sizes, "simscore")
    for first, second in zip(*(member.trainable_variables for member in fresh.members), strict=True):
        assert np.array_equal(first, second) == (not np.any(first)), first.path  # biases begin at zero


def test_pages_without_pairs_and_what_a_page_shares_teach_nothing_pairwise(make, page):
    ranker, plain = make("none", with_tasks(pairwise=3.0)), make("none")
    for same in (tf.zeros_like(page["clicked"]), tf.ones_like(page["clicked"])):
        for ours, theirs in zip(*(gradients_of(r, page | {"clicked": same})[1] for r in (ranker, plain)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    candidates = ("item", "position", "clicked", "converted", "dwell", *STATISTICS)
    empty = page | {name: page[name][:, :0] for name in candidates}
    assert float(loss_of(ranker, empty)) == 0
    bias = [v.path for v in ranker.trainable_variables].index(ranker.members[0].heads["ctr"].bias.path)
    ours, theirs = (gradients_of(r, page)[1] for r in (ranker, plain))
    np.testing.assert_allclose(ours[bias], theirs[bias], atol=1e-6)
    assert np.abs(ours[bias - 1] - theirs[bias - 1]).max() > 1e-3


def test_extreme_log_odds_of_two_events_keep_their_gradients(make):
    for a, b in ((0.3, -0.7), (50.0, -3.0), (-60.0, 60.0), (90.0, 90.0)):
        x, y = tf.Variable(a), tf.Variable(b)
        with tf.GradientTape() as tape:
            both = and_logit(x, y)
        gradients = tape.gradient(both, [x, y])
        assert np.isfinite([both, *gradients]).all()
        if abs(a) + abs(b) < 2:
            p = sigmoid(a) * sigmoid(b)
            assert float(both) == pytest.approx(np.log(p / (1 - p)), rel=1e-5)


def test_dwell_and_conversion_of_what_was_not_clicked_teach_nothing(make, page):
    ranker, page = make("none", all_tasks()), with_labels(page)
    unclicked = tf.cast(page["clicked"] != 1, tf.int64)
    other = page | {"dwell": page["dwell"] + 99.0 * tf.cast(unclicked, tf.float32)}
    other |= {"converted": page["converted"] + unclicked}  # a purchase elsewhere
    for ours, theirs in zip(gradients_of(ranker, page)[1], gradients_of(ranker, other)[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_loss_weights_move_the_loss_and_not_the_metric(make, page):
    """A weight of 2 is the same as a page that is there twice; what `fit` shows counts pages once."""
    ranker = make("none")
    plain = float(loss_of(ranker, page))
    shown = float(ranker.get_metrics_result()["loss"])
    for metric in ranker.metrics:
        metric.reset_state()
    weights = tf.constant([2.0] * 3 + [1.0] * 20 + [0.0])
    weighted = float(loss_of(ranker, page | {LOSS_WEIGHT: weights}))
    assert float(ranker.get_metrics_result()["loss"]) == pytest.approx(shown, rel=1e-6)
    order = [0, 0, 1, 1, 2, 2, *range(3, 23)]
    repeated = {name: tf.gather(values, order) for name, values in page.items()}
    assert weighted == pytest.approx(float(loss_of(ranker, repeated)), rel=1e-5)
    assert abs(weighted - plain) > 1e-4


def jrc_of(logits, clicked, present):
    """The loss of a member, and its gradient on the log-odds."""
    logits = tf.Variable(logits[None], dtype=tf.float32)
    labels = {"clicked": tf.constant(clicked, tf.int64)}
    with tf.GradientTape() as tape:
        target = make_targets(["ctr", "jrc"], labels, {"ctr": logits}, tf.constant(present, tf.float32), 30.0)["jrc"]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(target.label[None], target.prediction)
        loss = tf.reduce_sum(losses * target.weight) / tf.reduce_sum(target.weight)
    return float(loss), tape.gradient(loss, logits).numpy()[0]


def jrc_by_hand(logits, clicked, present):
    of_pages = []
    for page in range(len(logits)):
        s, y = logits[page][present[page]], clicked[page][present[page]]
        if len(s) > 1:
            chosen = [np.log(np.exp(sign * s / 2).sum()) - sign * s[i] / 2 for i, sign in enumerate(np.where(y, 1, -1))]
            of_pages.append(np.mean(chosen))
    return np.mean(of_pages)


@pytest.mark.parametrize(("pages", "candidates"), [(1, 2), (3, 5), (8, 4)])
def test_jrc_is_the_mean_log_loss_of_choosing_a_candidate_from_its_page(pages, candidates):
    rng = np.random.default_rng(candidates)
    logits, clicked = rng.normal(0, 2, (pages, candidates)), rng.random((pages, candidates)) < 0.4
    present = np.arange(candidates) < rng.integers(1, candidates + 1, (pages, 1))
    present[0] = True
    loss, gradient = jrc_of(logits, clicked, present)
    assert loss == pytest.approx(jrc_by_hand(logits, clicked, present), rel=1e-5)
    assert jrc_of(np.zeros_like(logits), clicked, present)[0] == pytest.approx(
        np.mean([np.log(n) for n in present.sum(axis=1) if n > 1]), rel=1e-5
    )
    # A page's level is none of its business; nor is padding, whatever it holds; nor a candidate without another.
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-6)
    np.testing.assert_array_equal(gradient[~present | (present.sum(axis=1, keepdims=True) < 2)], 0)
    level = rng.normal(0, 3, (pages, 1))
    other, moved = jrc_of(np.where(present, logits + level, 50), clicked, present)
    assert other == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(moved, gradient, atol=1e-5)


def test_jrc_moves_the_clicked_up_and_the_others_down_without_an_end():
    loss, gradient = jrc_of(np.array([[60.0, -60, -60, 0]]), np.array([[1, 0, 0, 0]]), np.array([[1, 1, 1, 1]]))
    assert loss == pytest.approx((0 + 2 * np.log(2) + 30 + np.log(2)) / 4, rel=1e-5)
    assert np.isfinite(gradient).all()
    _, gradient = jrc_of(np.zeros((1, 3)), np.array([[1, 0, 0]]), np.ones((1, 3)))
    np.testing.assert_allclose(gradient, [[-2 / 9, 1 / 9, 1 / 9]], atol=1e-6)


def test_the_ranker_adds_jrc_to_the_loss_of_clicks(make, page):
    ranker, plain = make("none", with_tasks(jrc=0.5)), make("none")
    logits = np.float64(ranker.logits(inputs_of(page))["ctr"])
    expected = jrc_by_hand(logits, page["clicked"].numpy() == 1, page["item"].numpy() != -1)
    assert float(loss_of(ranker, page)) == pytest.approx(float(loss_of(plain, page)) + 0.5 * expected, rel=1e-5)
    assert list(ranker(inputs_of(page))) == ranker.outputs == ["ctr"]
