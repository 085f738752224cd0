import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.augmentation import RandomViews, gaussian_blur

NUMBERS = np.arange(600, dtype=np.int32)


@pytest.fixture(scope="module")
def pictures():
    """Smooth ones, of a colour each, with a bright left half."""
    rng = np.random.default_rng(0)
    colour = rng.integers(60, 140, (600, 1, 1, 3))
    left = np.where(np.arange(16) < 8, 60, 0)[None, None, :, None]
    return np.broadcast_to(colour + left, (600, 20, 16, 3)).astype(np.uint8)


def test_without_strength_a_view_is_the_picture(pictures):
    noise = np.random.default_rng(1).integers(0, 256, pictures.shape).astype(np.uint8)
    np.testing.assert_array_equal(RandomViews(0.0)(noise, NUMBERS, [1, 2]), noise)


def test_views_depend_on_seed_and_number_alone(pictures):
    views = RandomViews()
    drawn = views(pictures, NUMBERS, [3, 4])
    assert drawn.dtype == tf.uint8
    order = np.random.default_rng(0).permutation(600)[:50]
    in_graph = tf.function(views)(pictures[order], tf.constant(NUMBERS[order]), tf.constant([3, 4], tf.int64))
    assert np.abs(in_graph.numpy().astype(int) - drawn.numpy()[order].astype(int)).max() <= 1  # rounding
    for seed in ([4, 4], [3, 5]):
        assert (views(pictures, NUMBERS, seed).numpy() != drawn.numpy()).any(axis=(1, 2, 3)).mean() > 0.9
    same = views(pictures[:1].repeat(40, axis=0), NUMBERS[:40], [3, 4]).numpy()
    assert len(np.unique(same.reshape(40, -1), axis=0)) > 35  # other numbers, other views


def test_shares_and_ranges_are_those_of_the_paper(pictures):
    # Grey alone: colours turn by nothing, so that only grey pictures have equal channels.
    grey = RandomViews(area=(1.0, 1.0), jitter=(0.0, 0.0, 0.0, 0.0))(pictures, NUMBERS, [0, 1]).numpy().astype(int)
    coloured = np.ptp(pictures.astype(int), axis=3).min(axis=(1, 2)) > 10
    assert np.isclose((np.ptp(grey, axis=3).max(axis=(1, 2)) <= 1)[coloured].mean(), 0.2, atol=0.06)
    mirrored = grey[:, :, :4].mean(axis=(1, 2, 3)) < grey[:, :, -4:].mean(axis=(1, 2, 3))
    # Crops may be narrower than the picture by the ratio of their sides, and lie on one side of the edge.
    assert np.isclose(mirrored.mean(), 0.5, atol=0.06)
    brightness = RandomViews(area=(1.0, 1.0), jitter=(0.3, 0.0, 0.0, 0.0))
    level = brightness(np.full_like(pictures, 100), NUMBERS, [0, 1]).numpy().mean(axis=(1, 2, 3))
    assert level.min() >= 69
    assert level.max() <= 131
    assert np.isclose((np.abs(level - 100) > 0.6).mean(), 0.8, atol=0.06)
    assert np.isclose(np.abs(level - 100)[level != 100].mean(), 15, atol=2)


def test_crops_cover_the_area_that_was_asked_for():
    ramp = np.broadcast_to(np.arange(200)[:, None, None], (200, 200, 3)).astype(np.uint8)
    still = RandomViews(area=(0.25, 0.25), jitter=(0.0, 0.0, 0.0, 0.0), scale=0.1)
    views = still(np.broadcast_to(ramp, (300, 200, 200, 3)), NUMBERS[:300], [5, 0]).numpy().astype(int)
    assert views.shape[1:3] == (20, 20)
    height = (views[:, -1, 0, 0] - views[:, 0, 0, 0]) / 199
    assert height.min() >= 0.5 * (3 / 4) ** 0.5 - 0.03  # a quarter of the area, sides in a ratio of 3 to 4 at most
    assert height.max() <= 0.5 * (4 / 3) ** 0.5 + 0.03
    assert views[:, 0].min() < 15  # from one edge
    assert views[:, -1].max() > 180  # to the other


def test_blur_is_a_mean_with_the_weights_of_a_normal_distribution():
    picture = np.random.default_rng(0).uniform(0, 255, (2, 40, 9, 3)).astype(np.float32)
    sigma = np.array([0.1, 1.5], np.float32)
    blurred = gaussian_blur(picture, sigma).numpy()
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    expected = sum(weights[i] * weights[j] * picture[1, 10 + i - 2, 4 + j - 2] for i in range(5) for j in range(5))
    np.testing.assert_allclose(blurred[1, 10, 4], expected, rtol=1e-4)
    np.testing.assert_allclose(blurred[0], picture[0], rtol=1e-4)
    np.testing.assert_allclose(gaussian_blur(np.full_like(picture, 7), sigma), 7, rtol=1e-5)


def test_strength_is_a_share():
    with pytest.raises(ValueError, match="`strength`"):
        RandomViews(1.5)
