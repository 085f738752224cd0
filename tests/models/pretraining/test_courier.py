import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.courier import Courier
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from tests.models.courier_batch import DIM, Table, dataset, draw_batch, embeddings_of, loss_of, table_gradient
from tests.models.pretraining.test_losses import reference as contrast_reference
from tests.models.pretraining.test_reconstruction import reference as reconstruction_reference
from tests.models.pretraining.test_reconstruction import self_attention_reference


def reference_loss(
    table,
    batch,
    temperature=0.05,
    scores="scaled",
    reconstruction="cross_attention",
    negative_candidates=True,
    mask_same_item=False,
):
    """Equations 1-7 page by page in NumPy, each contrast a mean over its positives."""
    e, clicks = embeddings_of(table, batch, "candidate_picture"), embeddings_of(table, batch, "click_picture")
    valid, click_valid = batch["candidate_picture"] >= 0, batch["click_picture"] >= 0
    picture = batch["picture_id"][np.maximum(batch["candidate_picture"], 0)].ravel() if mask_same_item else None
    positive = batch["clicked"] & valid & click_valid.any(axis=1)[:, None]
    valid = valid if negative_candidates else valid & batch["clicked"]
    reconstruct = reconstruction_reference if reconstruction == "cross_attention" else self_attention_reference
    r = reconstruct(e, clicks, click_valid, scores == "scaled")
    flat = lambda v: v.reshape(-1, v.shape[-1])  # noqa: E731
    page_view = contrast_reference(flat(e), flat(r), positive.ravel(), valid.ravel(), temperature, picture)
    page_view /= positive.sum()
    two = click_valid.sum(axis=1) >= 2
    if not two.any():
        return page_view, 0.0
    target = clicks[two, :1]
    r = reconstruct(target, clicks[two, 1:], click_valid[two, 1:], scores == "scaled")
    yes = np.ones(two.sum(), bool)
    picture = batch["picture_id"][batch["click_picture"][two, 0]] if mask_same_item else None
    return page_view, contrast_reference(target[:, 0], r[:, 0], yes, yes, temperature, picture) / two.sum()


def courier(**options) -> Courier:
    model = Courier(Table(), **options)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    return model


@pytest.mark.parametrize("shape", [(1, 4, 3), (6, 5, 5), (5, 1, 2), (3, 3, 1)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.2},
        {"scores": "raw"},
        {"reconstruction": "self_attention"},
        {"negative_candidates": False},
        {"mask_same_item": True},
        {"mask_same_item": True, "reconstruction": "self_attention", "negative_candidates": False},
    ],
    ids=str,
)
def test_loss_equals_the_equations(shape, options):
    pages, candidates, clicks = shape
    batch = draw_batch(pages, candidates, clicks)
    batch["click_picture"][:, 0] = np.arange(pages) % 2  # everyone has a history, some the same click
    batch["picture_id"][:10] = 0  # different pictures here that are one in the store
    model = courier(**options)
    page_view, click_sequence = reference_loss(model.encoder.get_weights()[0], batch, **options)
    assert float(loss_of(model, batch)) == pytest.approx(page_view + click_sequence, rel=1e-4, abs=1e-6)
    assert float(model.page_view_loss.result()) == pytest.approx(page_view, rel=1e-4, abs=1e-6)
    assert float(model.click_sequence_loss.result()) == pytest.approx(click_sequence, rel=1e-4, abs=1e-6)


def test_collapse_gives_the_logarithms_of_the_valid_rows():
    model = courier()
    model.encoder.set_weights([np.ones((256, DIM), np.float32)])
    batch = draw_batch(8)
    rows = (batch["candidate_picture"] >= 0).sum()
    users = ((batch["click_picture"] >= 0).sum(axis=1) >= 2).sum()
    assert float(loss_of(model, batch)) == pytest.approx(np.log(rows) + np.log(users), rel=1e-5)


def test_click_sequence_loss_is_the_page_view_loss_of_one_clicked_candidate():
    model = courier()
    batch = draw_batch(6, clicks=4)
    batch["click_picture"] = np.abs(batch["click_picture"])  # no padding
    loss_of(model, batch)
    click_sequence = float(model.click_sequence_loss.result())
    as_page = {
        **batch,
        "candidate_picture": batch["click_picture"][:, :1],
        "click_picture": batch["click_picture"][:, 1:],
        "clicked": np.ones((6, 1), bool),
    }
    model.page_view_loss.reset_state()
    loss_of(model, as_page)
    assert float(model.page_view_loss.result()) == pytest.approx(click_sequence, rel=1e-5)


def test_users_with_one_click_are_nobodys_negative_in_the_click_sequence():
    model = courier()
    batch = draw_batch(5)
    batch["click_picture"] = np.array([[1, 2, 3], [4, 5, -1], [6, -1, -1], [-1, -1, -1], [7, 8, 9]], np.int32)
    loss_of(model, batch)
    expected = float(model.click_sequence_loss.result())
    batch["click_picture"][2, 0] = 11
    model.click_sequence_loss.reset_state()
    loss_of(model, batch)
    assert float(model.click_sequence_loss.result()) == expected


def test_padding_unused_pictures_and_order_of_pages_do_not_matter():
    model = courier()
    batch = draw_batch(7)
    expected = float(loss_of(model, batch))
    used = np.union1d(batch["candidate_picture"], batch["click_picture"])
    others = np.setdiff1d(np.arange(30), used)
    assert len(others)
    changed = {**batch, "pictures": batch["pictures"].copy()}
    changed["pictures"][others] = 250
    assert float(loss_of(model, changed)) == expected
    order = np.random.default_rng(3).permutation(7)
    shuffled = {name: value if name.startswith("picture") else value[order] for name, value in batch.items()}
    assert float(loss_of(model, shuffled)) == pytest.approx(expected, rel=1e-5)


def test_a_page_without_history_has_no_positive_but_gives_negatives():
    model = courier()
    batch = draw_batch(3)
    batch["click_picture"] = np.array([[1, 2, 3], [4, 5, 6], [-1, -1, -1]], np.int32)
    batch["candidate_picture"] = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [20, 21, 22, 23]], np.int32)
    red = batch["pictures"][:, 0, 0, 0]
    expected = float(loss_of(model, batch))
    assert (table_gradient(model, batch)[red[20:24]] > 0).all()
    clicked = batch["clicked"].copy()
    clicked[2] = ~clicked[2]
    assert float(loss_of(model, {**batch, "clicked": clicked})) == pytest.approx(expected, rel=1e-6)


def test_padded_pictures_change_nothing():
    model, batch = courier(), draw_batch(4)
    expected = float(loss_of(model, batch))
    padded = {
        **batch,
        "pictures": np.concatenate([batch["pictures"], np.zeros((6, 2, 2, 3), np.uint8)]),
        "picture_id": np.concatenate([batch["picture_id"], np.full(6, -1, np.int32)]),
    }
    assert float(loss_of(model, padded)) == expected
    assert float(model.pictures_seen.result()) == 2 * len(batch["pictures"])


def test_without_the_click_sequence_the_page_view_remains():
    batch = draw_batch(6)
    whole, part = courier(), courier(click_sequence=False)
    loss_of(whole, batch)
    assert float(loss_of(part, batch)) == pytest.approx(float(whole.page_view_loss.result()), rel=1e-6)
    assert "click_sequence_loss" not in part.get_metrics_result()


def test_without_contrast_the_loss_is_minus_the_mean_cosine():
    model = courier(objective="similarity")
    batch = draw_batch(6)
    loss = float(loss_of(model, batch))
    page_view = -float(model.positive_similarity.result())
    assert float(model.page_view_loss.result()) == pytest.approx(page_view, rel=1e-5)
    assert loss == pytest.approx(page_view + float(model.click_sequence_loss.result()), rel=1e-5)
    model.encoder.set_weights([np.ones((256, DIM), np.float32)])
    assert float(loss_of(model, batch)) == pytest.approx(-2, rel=1e-6)  # collapse is a minimum
    assert "valid_rows" not in model.get_metrics_result()  # nothing to compare a collapse with


def test_hinge_compares_with_the_only_other_reconstruction():
    model = courier(objective="hinge", margin=1.5, click_sequence=False)
    batch = draw_batch(2, candidates=1, clicks=3)
    batch["click_picture"] = np.array([[1, 2, 3], [4, 5, -1]], np.int32)
    batch["candidate_picture"] = np.array([[6], [7]], np.int32)
    batch["clicked"][:] = True
    table = model.encoder.get_weights()[0]
    e, clicks = embeddings_of(table, batch, "candidate_picture"), embeddings_of(table, batch, "click_picture")
    r = reconstruction_reference(e, clicks, batch["click_picture"] >= 0, True)[:, 0]
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    similarity = unit(e[:, 0]) @ unit(r).T
    apart = [similarity[0, 1] - similarity[0, 0], similarity[1, 0] - similarity[1, 1]]
    expected = np.maximum(0, np.array(apart) + 1.5).mean()
    assert float(loss_of(model, batch)) == pytest.approx(expected, rel=1e-5)
    batch["click_picture"][1] = -1  # the other user has no reconstruction to compare with
    assert float(loss_of(model, batch)) == 0.0


def test_hinge_draws_anew_at_every_step_and_alike_with_a_seed():
    batch = draw_batch(8)
    losses = []
    for _ in range(2):
        keras.utils.set_random_seed(4)
        model = courier(objective="hinge", margin=1.0)
        losses.append([float(loss_of(model, batch)) for _ in range(3)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_without_negative_candidates_only_clicked_ones_remain():
    model = courier(negative_candidates=False)
    batch = draw_batch(6)
    batch["candidate_picture"][0, 1:3] = [28, 29]  # nowhere else
    batch["clicked"][0, 1:3] = False
    for name in ("candidate_picture", "click_picture"):
        batch[name][1:] = np.minimum(batch[name][1:], 27)
    batch["click_picture"][0] = [1, 2, 3]
    loss = float(loss_of(model, batch))
    left_out = np.where(batch["clicked"], batch["candidate_picture"], -1)
    assert float(loss_of(courier(), {**batch, "candidate_picture": left_out})) == pytest.approx(loss, rel=1e-6)
    unclicked = batch["pictures"][28:, 0, 0, 0]
    assert (table_gradient(model, batch)[unclicked] == 0).all()
    assert (table_gradient(courier(), batch)[unclicked] > 0).all()


def test_projection_head_is_between_the_embeddings_and_the_losses():
    keras.utils.set_random_seed(0)
    model = courier(projection_head=True)
    batch = draw_batch(6)
    loss = float(loss_of(model, batch))
    plain = courier()
    plain.encoder.set_weights([model.projection_head(model.encoder.get_weights()[0]).numpy()])
    assert float(loss_of(plain, batch)) == pytest.approx(loss, rel=1e-5)
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(dataset([batch]), steps_per_epoch=1, verbose=0, shuffle=False)
    for weight, value in zip(model.trainable_weights, before, strict=True):
        if weight.path.split("/")[-2] != "dense_1" or weight.name != "bias":
            assert np.abs(weight.numpy() - value).max() > 0, weight.path
    assert not [weight for weight in model.encoder.weights if "dense" in weight.path]


@pytest.mark.parametrize("options", [{}, {"negative_candidates": False}, {"mask_same_item": True}], ids=str)
def test_similarities_and_valid_rows_are_reported(options):
    batch = draw_batch(7, seed=3)
    batch["picture_id"][:12] = 0
    model = courier(**options)
    loss_of(model, batch)
    table = model.encoder.get_weights()[0]
    e, clicks = embeddings_of(table, batch, "candidate_picture"), embeddings_of(table, batch, "click_picture")
    r = reconstruction_reference(e, clicks, batch["click_picture"] >= 0, True)
    valid = batch["candidate_picture"] >= 0
    positive = batch["clicked"] & valid & (batch["click_picture"] >= 0).any(axis=1, keepdims=True)
    rows = (valid & batch["clicked"] if "negative_candidates" in options else valid).ravel()
    e, r = (v.reshape(-1, DIM) / np.maximum(np.linalg.norm(v.reshape(-1, DIM), axis=1)[:, None], 1e-9) for v in (e, r))
    similarity = e @ r.T
    picture = batch["picture_id"][np.maximum(batch["candidate_picture"], 0)].ravel()
    own, others, compared = [], [], []
    for column in np.flatnonzero(positive):
        other = rows & (np.arange(len(rows)) != column)
        own.append(similarity[column, column])
        others.extend(similarity[other, column])
        masked = (picture == picture[column]) if "mask_same_item" in options else False
        compared.append(1 + (other & ~masked).sum() if "mask_same_item" in options else 1 + other.sum())
    result = model.get_metrics_result()
    assert float(result["positive_similarity"]) == pytest.approx(np.mean(own), abs=1e-5)
    assert float(result["negative_similarity"]) == pytest.approx(np.mean(others), abs=1e-5)
    assert float(result["valid_rows"]) == pytest.approx(np.mean(compared), rel=1e-6)


@functools.cache
def loss_under(dtype, options):
    keras.utils.set_random_seed(0)
    model = Courier(ImageEncoder(Swin(2, 4, (1,), (2,), 2, dtype=dtype), 4, dtype=dtype), **dict(options), dtype=dtype)
    return loss_of(model, draw_batch(6))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reconstruction": "self_attention", "mask_same_item": True},
        {"objective": "similarity"},
        {"objective": "hinge", "margin": 1.0},
        {"projection_head": True},
    ],
    ids=str,
)
def test_mixed_precision_is_close_to_float32(policy, options):
    losses = [loss_under(dtype, tuple(options.items())) for dtype in ("float32", policy)]
    assert losses[1].dtype == tf.float32
    assert np.isfinite(float(losses[1]))
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=0.02, abs=0.02)


def test_mixed_precision_trains_with_a_float32_loss():
    keras.utils.set_random_seed(0)
    policy = "mixed_float16"
    model = Courier(ImageEncoder(Swin(2, 4, (1,), (2,), 2, dtype=policy), 4, dtype=policy), dtype=policy)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    batch = draw_batch(4)
    assert loss_of(model, batch).dtype == tf.float32
    before = model.encoder.get_weights()[0]
    model.fit(dataset([batch]).repeat(20), steps_per_epoch=20, verbose=0, shuffle=False)
    assert np.isfinite(model.get_metrics_result()["loss"])
    assert np.abs(model.encoder.get_weights()[0] - before).max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be positive. Received: 0.0"),
        ({"margin": -1.0}, "`margin` must be positive. Received: -1.0"),
        ({"objective": "triplet"}, "`objective` must be one of .* Received: 'triplet'"),
        ({"reconstruction": "mean"}, "`reconstruction` must be one of .* Received: 'mean'"),
        ({"scores": "cosine"}, "`scores` must be 'scaled' or 'raw'"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Courier(Table(), **options)
