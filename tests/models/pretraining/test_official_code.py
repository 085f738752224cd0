import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.courier import Courier
from models.pretraining.losses import column_contrast
from models.pretraining.official_code import OfficialCodeCourier
from tests.models.courier_batch import DIM, Table, draw_batch, loss_of
from tests.models.pretraining.test_losses import reference as contrast_reference

BLANK = 124  # red of the mean colour of the normalisation


def attention_reference(queries, clicks, weights):
    """Attention of several heads with learnt projections, one query and one head at a time; padding takes part."""
    (wq, bq), (wk, bk), (wv, bv), (wo, bo) = weights
    result = np.zeros_like(queries)
    for page in range(len(queries)):
        for j, query in enumerate(queries[page]):
            heads = []
            for head in range(wq.shape[1]):
                q = query @ wq[:, head] + bq[head]
                keys, values = clicks[page] @ wk[:, head] + bk[head], clicks[page] @ wv[:, head] + bv[head]
                scores = np.exp(keys @ q / np.sqrt(len(q)))
                heads.append(scores @ values / scores.sum())
            result[page, j] = sum(head @ wo[i] for i, head in enumerate(heads)) + bo
    return result


def click_through_reference(features, clicked, valid, weights):
    """Cross-entropy of a perceptron whose hidden values are normalised over the rows, padded ones included."""
    (w1, b1), (gain, offset), (w2, b2) = weights
    hidden = np.maximum(features @ w1 + b1, 0)
    hidden = gain * (hidden - hidden.mean(axis=0)) / np.sqrt(hidden.var(axis=0) + 1e-5) + offset
    probability = 1 / (1 + np.exp(-(hidden @ w2 + b2)[:, 0]))
    return -np.log(np.where(clicked, probability, 1 - probability))[valid].mean()


def official() -> OfficialCodeCourier:
    """With random weights everywhere, biases too."""
    keras.utils.set_random_seed(0)
    model = OfficialCodeCourier(Table())
    rng = np.random.default_rng(2)
    for weight in model.reconstruction.weights + model.click_through.trainable_weights:
        weight.assign(rng.normal(scale=0.5, size=weight.shape))
    model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    return model


def embed(table, batch, name):
    red = np.append(batch["pictures"][:, 0, 0, 0], BLANK)
    return table[red[batch[name]]]  # -1 is the last one


@pytest.mark.parametrize("shape", [(1, 4, 3), (6, 5, 5), (4, 1, 2)])
def test_equals_the_published_computation(shape):
    pages, candidates, clicks = shape
    model, batch = official(), draw_batch(pages, candidates, clicks)
    loss = float(loss_of(model, batch, training=True))
    table = model.encoder.get_weights()[0].astype(np.float64)
    e, history = embed(table, batch, "candidate_picture"), embed(table, batch, "click_picture")
    layer = model.reconstruction.attention
    weights = [dense.get_weights() for dense in (layer.query_dense, layer.key_dense, layer.value_dense)]
    weights.append(layer.output_dense.get_weights())
    r = attention_reference(e, history, weights).reshape(-1, DIM)
    e = e.reshape(-1, DIM)
    positive = (batch["clicked"] & (batch["candidate_picture"] >= 0)).ravel()
    everyone = np.ones(len(e), bool)
    page_view = contrast_reference(e, r, positive, everyone, 0.05) / positive.sum()
    latest = history[:, :1]
    r_latest = attention_reference(latest, history[:, 1:], weights)[:, 0]
    users = np.ones(pages, bool)
    click_sequence = contrast_reference(latest[:, 0], r_latest, users, users, 20.0) / pages
    net = model.click_through
    click_through = click_through_reference(
        np.concatenate([r, e], axis=1),
        positive,
        (batch["candidate_picture"] >= 0).ravel(),
        [net.hidden.get_weights(), net.norm.get_weights()[:2], net.logit.get_weights()],
    )
    reported = model.get_metrics_result()
    assert float(reported["page_view_loss"]) == pytest.approx(page_view, rel=1e-4, abs=1e-5)
    assert float(reported["click_sequence_loss"]) == pytest.approx(click_sequence, rel=1e-5, abs=1e-6)
    assert float(reported["click_through_loss"]) == pytest.approx(click_through, rel=1e-3)
    assert loss == pytest.approx(page_view + click_sequence + click_through, rel=1e-3)
    assert float(reported["valid_rows"]) == len(e)


def test_the_click_sequence_loss_hardly_moves():
    """At temperature 20 and the paper's 3,072 users it is between 7.930 and 8.130 whatever the encoder does."""
    rows, dim = 3072, 8
    rng = np.random.default_rng(0)
    everyone, first = np.ones(rows, bool), np.arange(rows) == 0

    def loss(embeddings, reconstructions, positive):
        inputs = {"negatives": embeddings, "negatives_valid": everyone, "temperature": 20.0}
        return float(column_contrast(embeddings, reconstructions, positive, **inputs)) / positive.sum()

    direction = np.eye(1, dim, dtype=np.float32).repeat(rows, axis=0)
    best = np.where(first[:, None], direction, -direction)
    assert loss(direction, direction, everyone) == pytest.approx(np.log(rows), abs=1e-4)  # collapse: 8.030
    assert loss(best, direction, first) == pytest.approx(7.930, abs=5e-4)
    assert loss(-best, direction, first) == pytest.approx(8.130, abs=5e-4)
    embeddings, reconstructions = rng.normal(size=(2, rows, dim)).astype(np.float32)
    assert 7.930 < loss(embeddings, reconstructions, everyone) < 8.130
    assert 7.930 < loss(embeddings, embeddings, everyone) < np.log(rows)


def test_content_of_padding_matters_here_and_not_in_the_paper():
    batch = draw_batch(6)
    assert (batch["candidate_picture"] == -1).any()
    for model, matters in ((official(), True), (Courier(Table()), False)):
        before, page_view = loss_of(model, batch), float(model.page_view_loss.result())
        table = model.encoder.get_weights()[0]
        table[BLANK] = -5 * table[BLANK] + 1
        model.encoder.set_weights([table])
        model.page_view_loss.reset_state()
        after = loss_of(model, batch)
        assert (abs(float(after) - float(before)) > 0.01) == matters
        assert (abs(float(model.page_view_loss.result()) - page_view) > 0.01) == matters


def test_users_without_clicks_are_positive_too():
    model, batch = official(), draw_batch(3)
    batch["click_picture"][:] = -1
    loss_of(model, batch)
    assert float(model.click_sequence_loss.result()) == pytest.approx(np.log(3), rel=1e-5)  # all alike
    assert float(model.page_view_loss.result()) > 0


def test_every_weight_learns_and_the_normalisation_remembers():
    model, batch = official(), draw_batch(8)
    batch = {name: tf.constant(value) for name, value in batch.items()}
    remembered = [weight.numpy() for weight in model.click_through.non_trainable_weights]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=batch, y_pred=model(batch, training=True), training=True)
    for weight, gradient in zip(model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True):
        if weight.path.split("/")[-2:] != ["key", "bias"]:  # adds the same to all scores of a query
            assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, weight.path
    for weight, before in zip(model.click_through.non_trainable_weights, remembered, strict=True):
        assert np.abs(weight.numpy() - before).max() > 0, weight.path


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match=r"a multiple of 4\. Received: 6"):
        OfficialCodeCourier(Table(dim=6))
    with pytest.raises(ValueError, match="`click_picture` must have 2 clicks or more"):
        loss_of(official(), draw_batch(3, clicks=1))
