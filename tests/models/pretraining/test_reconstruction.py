import numpy as np
import pytest
from keras import ops

from models.pretraining.reconstruction import SelfAttentionReconstruction, UserIntentionReconstruction


def reference(candidates, clicks, valid, scaled):
    """Equations 1-3, one page and one candidate at a time."""
    result = np.zeros_like(candidates)
    for page in range(len(candidates)):
        rows = clicks[page][valid[page]]
        if len(rows) == 0:
            continue
        for j, candidate in enumerate(candidates[page]):
            scores = rows @ candidate / (np.sqrt(len(candidate)) if scaled else 1.0)
            weights = np.exp(scores - scores.max())
            result[page, j] = (weights / weights.sum()) @ rows
    return result


def self_attention_reference(candidates, clicks, valid, scaled):
    """Each valid click attends to the valid clicks; their mean is everybody's reconstruction."""
    result = np.zeros_like(candidates)
    for page in range(len(candidates)):
        rows = clicks[page][valid[page]]
        if len(rows):
            asked = reference(rows[None], clicks[page : page + 1], valid[page : page + 1], scaled)[0]
            result[page] = asked.mean(axis=0)
    return result


def draw(batch, candidates, clicks, dim, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(batch, candidates, dim)).astype(np.float32),
        rng.normal(size=(batch, clicks, dim)).astype(np.float32),
        rng.random((batch, clicks)) < 0.6,
    )


LAYERS = [UserIntentionReconstruction, SelfAttentionReconstruction]


@pytest.mark.parametrize("scores", ["scaled", "raw"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (3, 5, 4, 8), (4, 2, 7, 3)])
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_the_equations(layer, shape, scores):
    inputs = draw(*shape)
    expected = reference if layer is UserIntentionReconstruction else self_attention_reference
    np.testing.assert_allclose(layer(scores)(*inputs), expected(*inputs, scores == "scaled"), atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_weights_are_shares_of_the_valid_clicks(layer):
    candidates, clicks, valid = draw(8, 5, 6, 4)
    valid[0] = False
    weights = ops.convert_to_numpy(layer().attention_weights(candidates, clicks, valid))
    assert (weights[~np.repeat(valid[:, None], 5, axis=1)] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=2), np.repeat(valid.any(axis=1)[:, None], 5, axis=1), atol=1e-6)
    np.testing.assert_allclose(weights @ clicks, layer()(candidates, clicks, valid), atol=1e-6)


def test_self_attention_has_not_seen_the_candidates():
    candidates, clicks, valid = draw(4, 5, 6, 3)
    result = ops.convert_to_numpy(SelfAttentionReconstruction()(candidates, clicks, valid))
    np.testing.assert_array_equal(result, np.repeat(result[:, :1], 5, axis=1))
    np.testing.assert_array_equal(SelfAttentionReconstruction()(candidates + 1, clicks, valid), result)
    seen = ops.convert_to_numpy(UserIntentionReconstruction()(candidates, clicks, valid))
    assert np.abs(seen - seen[:, :1]).max() > 0.1


@pytest.mark.parametrize("layer", LAYERS)
def test_stays_between_the_valid_clicks(layer):
    candidates, clicks, valid = draw(8, 5, 6, 4)
    valid[:, 0] = True
    result = ops.convert_to_numpy(layer()(candidates, clicks, valid))
    low = np.where(valid[..., None], clicks, np.inf).min(axis=1, keepdims=True)
    high = np.where(valid[..., None], clicks, -np.inf).max(axis=1, keepdims=True)
    assert (result >= low - 1e-6).all()
    assert (result <= high + 1e-6).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_one_click_is_the_reconstruction_and_none_is_zero(layer):
    candidates, clicks, _ = draw(1, 3, 4, 5)
    layer = layer()
    one = ops.convert_to_numpy(layer(candidates, clicks, np.array([[False, False, True, False]])))
    np.testing.assert_allclose(one[0], np.repeat(clicks[0, 2:3], 3, axis=0), atol=1e-7)
    assert (ops.convert_to_numpy(layer(candidates, clicks, np.zeros((1, 4), bool))) == 0).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_order_of_clicks_and_content_of_padding_do_not_matter(layer):
    candidates, clicks, valid = draw(3, 4, 6, 5)
    layer = layer()
    expected = ops.convert_to_numpy(layer(candidates, clicks, valid))
    order = np.random.default_rng(1).permutation(6)
    np.testing.assert_allclose(layer(candidates, clicks[:, order], valid[:, order]), expected, atol=1e-6)
    garbage = np.where(valid[..., None], clicks, 1e3).astype(np.float32)
    np.testing.assert_array_equal(layer(candidates, garbage, valid), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_config_round_trip_and_unknown_scores(layer):
    assert layer.from_config(layer("raw").get_config()).scores == "raw"
    with pytest.raises(ValueError, match="'scaled' or 'raw'"):
        layer("cosine")
