import numpy as np
import pytest
from keras import ops

from models.pretraining.reconstruction import UserIntentionReconstruction


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


def draw(batch, candidates, clicks, dim, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(batch, candidates, dim)).astype(np.float32),
        rng.normal(size=(batch, clicks, dim)).astype(np.float32),
        rng.random((batch, clicks)) < 0.6,
    )


@pytest.mark.parametrize("scores", ["scaled", "raw"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (3, 5, 4, 8), (4, 2, 7, 3)])
def test_equals_the_equations(shape, scores):
    inputs = draw(*shape)
    actual = UserIntentionReconstruction(scores)(*inputs)
    np.testing.assert_allclose(actual, reference(*inputs, scores == "scaled"), atol=1e-5)


def test_stays_between_the_valid_clicks():
    candidates, clicks, valid = draw(8, 5, 6, 4)
    valid[:, 0] = True
    result = ops.convert_to_numpy(UserIntentionReconstruction()(candidates, clicks, valid))
    low = np.where(valid[..., None], clicks, np.inf).min(axis=1, keepdims=True)
    high = np.where(valid[..., None], clicks, -np.inf).max(axis=1, keepdims=True)
    assert (result >= low - 1e-6).all()
    assert (result <= high + 1e-6).all()


def test_one_click_is_the_reconstruction_and_none_is_zero():
    candidates, clicks, _ = draw(1, 3, 4, 5)
    layer = UserIntentionReconstruction()
    one = ops.convert_to_numpy(layer(candidates, clicks, np.array([[False, False, True, False]])))
    np.testing.assert_allclose(one[0], np.repeat(clicks[0, 2:3], 3, axis=0), atol=1e-7)
    assert (ops.convert_to_numpy(layer(candidates, clicks, np.zeros((1, 4), bool))) == 0).all()


def test_order_of_clicks_and_content_of_padding_do_not_matter():
    candidates, clicks, valid = draw(3, 4, 6, 5)
    layer = UserIntentionReconstruction()
    expected = ops.convert_to_numpy(layer(candidates, clicks, valid))
    order = np.random.default_rng(1).permutation(6)
    np.testing.assert_allclose(layer(candidates, clicks[:, order], valid[:, order]), expected, atol=1e-6)
    garbage = np.where(valid[..., None], clicks, 1e3).astype(np.float32)
    np.testing.assert_array_equal(layer(candidates, garbage, valid), expected)


def test_config_round_trip_and_unknown_scores():
    layer = UserIntentionReconstruction.from_config(UserIntentionReconstruction("raw").get_config())
    assert layer.scores == "raw"
    with pytest.raises(ValueError, match="'scaled' or 'raw'"):
        UserIntentionReconstruction("cosine")
