import keras
import numpy as np
import pytest
import tensorflow as tf

from models.metrics.gauc import GAUC
from models.pretraining.supervised import Supervised
from models.vision.convnet import ConvNet
from models.vision.encoder import ImageEncoder
from tests.models.courier_batch import (
    Table,
    check_resumption,
    dataset,
    draw_batch,
    embeddings_of,
    loss_of,
    mirrored,
    split_batch,
    table_gradient,
)

SMALL = {"id_dim": 3, "id_buckets": 150, "attention_units": 5, "mlp_units": (7, 4)}


def supervised(optimizer="adam", **options) -> Supervised:
    """With random weights everywhere, biases too."""
    keras.utils.set_random_seed(0)
    model = Supervised(Table(), **{**SMALL, **options})
    rng = np.random.default_rng(2)
    for weight in model.trainable_weights[1:]:
        weight.assign(rng.normal(scale=0.4, size=weight.shape))
    model.compile(optimizer, run_eagerly=True)
    return model


def items_of(model, batch, name):
    """Embeddings of pictures, and of their numbers behind them."""
    items = embeddings_of(model.encoder.get_weights()[0], batch, name)
    if model.id_embedding is None:
        return items
    number = batch["picture_id"][np.maximum(batch[name], 0)]
    return np.concatenate([items, model.id_embedding.get_weights()[0][1 + number % model.id_buckets]], axis=-1)


def reference_logits(model, batch):
    """DIN's equation 3 candidate by candidate and click by click, and the MLP."""
    candidates, clicks = (items_of(model, batch, name) for name in ("candidate_picture", "click_picture"))
    attention = model.attention
    kernel, bias, score, score_bias = (
        w.numpy() for w in (attention.kernel, attention.bias, attention.score_kernel, attention.score_bias)
    )
    logits = np.zeros(batch["clicked"].shape)
    for page, j in np.argwhere(batch["candidate_picture"] >= 0):
        q, interest = candidates[page, j].astype(np.float64), 0.0
        for k in clicks[page][batch["click_picture"][page] >= 0]:
            weight = np.maximum(np.concatenate([q, k, q - k, q * k]) @ kernel + bias, 0) @ score + score_bias
            interest = interest + weight * k
        hidden = np.concatenate([q, interest + 0 * q, interest * q])
        for layer in model.mlp:
            w, b = layer.get_weights()
            hidden = np.maximum(hidden @ w + b, 0)
        w, b = model.logit.get_weights()
        logits[page, j] = (hidden @ w + b)[0]
    return logits


def call(model, batch, name="logits"):
    return model({name: tf.constant(value) for name, value in batch.items()})[name].numpy()


@pytest.mark.parametrize("shape", [(1, 4, 3), (6, 5, 5), (5, 1, 2), (3, 3, 1)])
@pytest.mark.parametrize("options", [{}, {"id_dim": 0}, {"mlp_units": (6,)}, {"id_buckets": 4}], ids=str)
def test_logits_and_loss_equal_the_equations(shape, options):
    batch, model = draw_batch(*shape), supervised(**options)
    expected = reference_logits(model, batch)
    np.testing.assert_allclose(call(model, batch), expected, rtol=1e-4, atol=1e-5)
    probability = 1 / (1 + np.exp(-expected))
    losses = -np.log(np.where(batch["clicked"], probability, 1 - probability))
    valid = batch["candidate_picture"] >= 0
    for training in (False, True):
        assert float(loss_of(model, batch, training)) == pytest.approx(losses[valid].mean(), rel=1e-4)


def test_logits_of_zero_have_a_loss_of_ln_2():
    model = supervised()
    for weight in model.logit.weights:
        weight.assign(tf.zeros_like(weight))
    assert float(loss_of(model, draw_batch(8))) == pytest.approx(np.log(2), rel=1e-6)


def test_order_of_pages_clicks_and_candidates_padding_and_unused_pictures_do_not_matter():
    model, batch = supervised(), draw_batch(7)
    rng = np.random.default_rng(3)
    loss, logits = float(loss_of(model, batch)), call(model, batch)
    pages, candidates, clicks = rng.permutation(7), rng.permutation(4), rng.permutation(3)
    changed = {
        **batch,
        "candidate_picture": batch["candidate_picture"][pages][:, candidates],
        "clicked": batch["clicked"][pages][:, candidates],
        "click_picture": batch["click_picture"][pages][:, clicks],
    }
    np.testing.assert_allclose(call(model, changed), logits[pages][:, candidates], rtol=1e-4, atol=1e-5)
    assert float(loss_of(model, changed)) == pytest.approx(loss, rel=1e-5)

    unused = np.setdiff1d(np.arange(30), np.union1d(batch["candidate_picture"], batch["click_picture"]))
    wider = {name: np.pad(batch[name], [[0, 2], [0, 3]], constant_values=-1) for name in changed if "_picture" in name}
    wider["clicked"] = np.pad(batch["clicked"], [[0, 2], [0, 3]], constant_values=True)  # of no candidate
    wider = {**batch, **wider, "pictures": batch["pictures"].copy(), "picture_id": batch["picture_id"].copy()}
    assert len(unused)
    wider["pictures"][unused], wider["picture_id"][unused] = 250, -1
    np.testing.assert_allclose(call(model, wider)[:7, :4], logits, rtol=1e-4, atol=1e-5)
    assert float(loss_of(model, wider)) == pytest.approx(loss, rel=1e-5)


def test_pictures_that_no_valid_place_shows_have_no_gradient():
    model, batch = supervised(), draw_batch(6)
    batch["candidate_picture"][:, 1:] = np.arange(1, 19).reshape(6, 3)
    batch["candidate_picture"][:, 0] = -1  # without a picture; row 0 stands in
    batch["click_picture"][:, :2] = np.arange(19, 25)[:, None]
    batch["click_picture"][:, 2] = -1
    red = batch["pictures"][:, 0, 0, 0]
    gradient = table_gradient(model, batch)
    assert (gradient[red[1:25]] > 0).all()
    assert (np.delete(gradient, red[1:25]) == 0).all()


def test_clicks_reach_the_first_layer_of_the_encoder_and_all_behind_it():
    keras.utils.set_random_seed(0)
    model = Supervised(ImageEncoder(ConvNet((4, 4), (0, 1), 3, (1, 1)), 6), **SMALL)
    batch = {name: tf.constant(value) for name, value in picture_batch(0).items()}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=batch, y_pred=model(batch, training=True), training=True)
    gradients = tape.gradient(loss, model.trainable_weights)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert np.abs(tf.convert_to_tensor(gradient)).max(initial=1 - weight.shape.num_elements()) > 0, weight.path


def one_step(batch, replicas):
    """What is reported of a step, and its gradients."""
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        model = supervised()

    def step(part):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=part, y_pred=model(part, training=True), training=True)
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_weights)]
        return tf.distribute.get_replica_context().all_reduce("SUM", [loss, *gradients])

    (part,) = strategy.distribute_datasets_from_function(lambda _: dataset(split_batch(batch, replicas)))
    sums = strategy.run(step, (part,))
    loss, *gradients = (strategy.experimental_local_results(value)[0].numpy() for value in sums)
    metrics = model.get_metrics_result()
    metrics.pop("pictures")  # a picture of both replicas counts twice
    return {"loss": loss, **metrics}, gradients


def test_loss_and_gradients_of_two_replicas_are_those_of_one():
    batch = draw_batch(8)
    batch["candidate_picture"][4:, 1:] = -1  # the second one has fewer candidates
    batch["clicked"] &= batch["candidate_picture"] >= 0
    batch["clicked"][:, 0] = np.arange(8) % 3 == 0
    one, two = (one_step(batch, replicas) for replicas in (1, 2))
    for name, value in one[0].items():
        assert float(two[0][name]) == pytest.approx(float(value), rel=1e-5), name
    for gradient, gradient_2 in zip(one[1], two[1], strict=True):
        np.testing.assert_allclose(gradient, gradient_2, rtol=1e-4, atol=1e-6)
    assert np.abs(one[1][0]).max() > 1e-3


def test_gauc_is_the_order_of_the_logits_within_pages():
    model, batch = supervised(), draw_batch(6)
    loss_of(model, batch)
    logits, valid = reference_logits(model, batch), batch["candidate_picture"] >= 0
    pages = []
    for page in range(6):
        yes, no = (logits[page][valid[page] & (batch["clicked"][page] == value)] for value in (True, False))
        if len(yes) and len(no):
            pages.append((np.sign(yes[:, None] - no).mean() + 1) / 2)  # the same picture twice is a tie
    assert 0 < len(pages) < 6
    assert float(model.gauc.result()) == pytest.approx(np.mean(pages), rel=1e-5)


def test_similarities_are_cosines_with_the_clicks():
    model, batch = supervised(), draw_batch(6)
    loss_of(model, batch)
    candidates, clicks = (
        embeddings_of(model.encoder.get_weights()[0], batch, name) for name in ("candidate_picture", "click_picture")
    )
    values = {True: [], False: []}
    for page, j in np.argwhere(batch["candidate_picture"] >= 0):
        near = [
            candidates[page, j] @ click / np.linalg.norm(candidates[page, j]) / np.linalg.norm(click)
            for click in clicks[page][batch["click_picture"][page] >= 0]
        ]
        if near:
            values[bool(batch["clicked"][page, j])].append(np.mean(near))
        assert call(model, batch, "similarity")[page, j] == pytest.approx(np.mean(near or [0]), abs=1e-5)
    assert float(model.positive_similarity.result()) == pytest.approx(np.mean(values[True]), abs=1e-5)
    assert float(model.negative_similarity.result()) == pytest.approx(np.mean(values[False]), abs=1e-5)


def test_a_loss_of_the_user_takes_the_place_of_the_cross_entropy():
    model, batch = supervised(), draw_batch(6)
    model.compile("sgd", loss="mse", weighted_metrics=[GAUC(name="measured")], run_eagerly=True)
    valid = batch["candidate_picture"] >= 0
    probability = 1 / (1 + np.exp(-reference_logits(model, batch)))
    reported = model.evaluate(dataset([batch]), steps=1, verbose=0, return_dict=True)
    assert reported["loss"] == pytest.approx(np.square(probability - batch["clicked"])[valid].mean(), rel=1e-4)
    assert reported["measured"] == pytest.approx(reported["gauc"], rel=1e-5)


def picture_batch(seed):
    batch = draw_batch(5, seed=seed)
    batch["pictures"] = np.random.default_rng(seed).integers(0, 256, (30, 16, 12, 3)).astype(np.uint8)
    return batch


def test_an_interrupted_run_goes_on_exactly():
    def make():
        keras.utils.set_random_seed(0)
        model = Supervised(ImageEncoder(ConvNet((4, 4), (0, 1), 3, (1, 1), drop_path=0.5), 6), **SMALL)
        model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
        return model

    state, end = check_resumption(make, picture_batch)
    assert any((state[name] != value).any() for name, value in end.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id_dim": -1}, "`id_dim` must be at least 0. Received: -1"),
        ({"id_buckets": 0}, "`id_buckets` must be at least 1. Received: 0"),
        ({"mlp_units": ()}, "`mlp_units` must be one positive number or more"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Supervised(Table(), **options)


STYLES = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [220, 220, 30]])


def draw_styles(pictures, seed):
    """Pictures with a patch in the colour of their style, somewhere on a ground that means nothing."""
    rng = np.random.default_rng(seed)
    style = np.arange(pictures) % len(STYLES)
    shown = np.tile(rng.integers(0, 256, (pictures, 1, 1, 3)), (1, 12, 12, 1))
    for picture, (row, column) in zip(range(pictures), rng.integers(0, 7, (pictures, 2)), strict=True):
        shown[picture, row : row + 5, column : column + 5] = STYLES[style[picture]]
    return shown.astype(np.uint8), style


def neighbours_of_style(encoder, pictures, style):
    """Of each picture, the share of its 5 nearest that have its style."""
    vectors = encoder(pictures).numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T - 9 * np.eye(len(vectors))
    return (style[np.argsort(-cosine, axis=1)[:, :5]] == style[:, None]).mean(axis=1)


def test_new_pictures_are_seen_as_shoppers_see_them():
    """Shoppers click the style that they clicked before."""
    keras.utils.set_random_seed(0)
    encoder = ImageEncoder(ConvNet((8, 16), (1, 1), 3, (1, 1), drop_path=0.0), 12)
    model = Supervised(encoder, id_dim=4, id_buckets=120, attention_units=16)
    model.compile(keras.optimizers.Adam(0.005))
    pictures, style = draw_styles(120, seed=0)
    rng = np.random.default_rng(2)
    shape = (30, 32)
    candidate = rng.integers(120, size=(*shape, 4))
    taste = rng.integers(4, size=(*shape, 1))
    data = tf.data.Dataset.from_tensor_slices(
        {
            "candidate_picture": candidate.astype(np.int32),
            "click_picture": (4 * rng.integers(30, size=(*shape, 3)) + taste).astype(np.int32),
            "clicked": style[candidate] == taste,
        }
    ).map(lambda pages: {**pages, "pictures": pictures, "picture_id": tf.range(120)})
    new = draw_styles(200, seed=1)
    before = neighbours_of_style(encoder, *new)
    history = model.fit(data, epochs=4, verbose=0).history
    gain = neighbours_of_style(encoder, *new) - before
    assert history["loss"][-1] < history["loss"][0] - 0.05
    assert gain.mean() - 3 * gain.std() / np.sqrt(len(gain)) > 0
