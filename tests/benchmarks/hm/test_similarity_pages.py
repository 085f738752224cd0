from pathlib import Path

import numpy as np
import pytest

from beam_pipelines.format.page_reader import decode_page
from beam_pipelines.format.tfrecord import read_records
from benchmarks.encoder.ablations import VARIANTS
from benchmarks.encoder.quality import attribute_shares, colour_histograms, pixel_embeddings, whiten
from benchmarks.hm.similarity_pages import CLICKS, SimilarityPages, page_aucs, read_pages, user_bootstrap
from models.config import load_config
from models.data.dataset import Dataset
from models.metrics.auc import page_auc
from models.pretraining.config import PretrainConfig
from tests.models.tiny_dataset import write_tiny_dataset


def draw(pages=25, candidates=7, items=30, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, items, (pages, candidates))
    rows[:, :2] = rng.integers(0, items, (pages, 2))
    clicked = (rng.random(rows.shape) < 0.4) & (rows >= 0)
    clicked[:, 0], clicked[:, 1] = True, False
    clicks = np.where(np.arange(9) < rng.integers(1, 10, (pages, 1)), rng.integers(0, items, (pages, 9)), -1)
    return SimilarityPages(rng.integers(0, 8, pages), rows, clicked, clicks)


def test_reads_the_pages_that_the_records_hold(tmp_path):
    dataset = Dataset(write_tiny_dataset(tmp_path, pages=60).data)
    has_image = np.arange(dataset.manifest.items.file.records) % 5 > 0
    expected = []
    for path in dataset.shard_paths("train"):
        for page in map(decode_page, read_records(Path(path))):
            shown = has_image[page["item"]]
            candidates, clicked = page["item"][shown], page["clicked"][shown] == 1
            clicks = [item for item in page["click_item"][:CLICKS] if has_image[item]]
            if clicks and clicked.any() and not clicked.all():
                expected.append((page["user"][0], candidates.tolist(), clicked.tolist(), clicks))
    assert 10 < len(expected) < 60
    pages = read_pages(dataset, "train", has_image)
    actual = [
        (user, rows[rows >= 0].tolist(), clicked[rows >= 0].tolist(), clicks[clicks >= 0].tolist())
        for user, rows, clicked, clicks in zip(*pages, strict=True)
    ]
    assert actual == expected


def test_page_aucs_are_the_terms_of_the_gauc():
    pages = draw()
    scores = np.random.default_rng(1).integers(0, 4, pages.candidates.shape)
    valid = pages.candidates >= 0
    expected = page_auc(scores[valid], pages.clicked[valid], np.nonzero(valid)[0])
    assert page_aucs(scores, pages).mean() == pytest.approx(expected.gauc_page_mean, abs=1e-12)


def test_interval_is_that_of_a_slow_bootstrap_over_users():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 40, 150)
    values = rng.normal(size=40)[user] + rng.normal(size=150)
    means = []
    for _ in range(4000):
        drawn = rng.choice(np.unique(user), len(np.unique(user)))
        means.append(np.concatenate([values[user == u] for u in drawn]).mean())
    estimate = user_bootstrap(values, user)
    assert estimate.mean == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.03)
    assert estimate.high - estimate.low > 1.3 * np.subtract(*user_bootstrap(values, np.arange(150))[:0:-1])


def test_pages_that_repeat_others_of_their_user_add_no_certainty():
    user, values = np.arange(30), np.random.default_rng(0).normal(size=30)
    assert user_bootstrap(np.tile(values, 4), np.tile(user, 4)) == pytest.approx(user_bootstrap(values, user))
    assert user_bootstrap(np.full(30, 0.25), user) == pytest.approx((0.25, 0.25, 0.25))


def test_shift_of_all_pages_moves_the_interval_for_differences_are_paired():
    user, values = np.arange(60) % 20, np.random.default_rng(0).normal(size=60)
    shifted = user_bootstrap(values + 0.5, user)
    assert shifted == pytest.approx(np.add(user_bootstrap(values, user), 0.5))


def test_attribute_shares_equal_plain_python():
    pages, codes = draw(), np.random.default_rng(2).integers(0, 3, (30, 2))
    shares = attribute_shares(codes, pages)
    for page, (candidates, clicks) in enumerate(zip(pages.candidates, pages.clicks, strict=True)):
        for place, candidate in enumerate(candidates):
            if candidate >= 0:
                same = [codes[click] == codes[candidate] for click in clicks if click >= 0]
                assert shares[page, place] == pytest.approx(np.mean(same, axis=0))


def test_colour_histograms_count_every_picture_alone():
    pictures = np.zeros((3, 2, 2, 3), np.uint8)
    pictures[1] = 255
    pictures[2, 0] = (0, 64, 128)
    histograms = colour_histograms(pictures) ** 2
    expected = np.zeros((3, 64))
    expected[0, 0] = expected[1, 63] = 1
    expected[2, [0, 1 * 4 + 2]] = 0.5
    np.testing.assert_allclose(histograms, expected, atol=1e-6)


def test_brightness_and_contrast_do_not_change_pixel_embeddings():
    picture = np.random.default_rng(0).integers(0, 100, (1, 8, 12, 3))
    vectors = pixel_embeddings(np.concatenate([picture, 2 * picture + 10]).astype(np.uint8), shrink=2)
    assert vectors.shape == (2, 4 * 6 * 3)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    np.testing.assert_allclose(vectors.sum(axis=1), 0, atol=1e-4)


def test_whitened_vectors_have_unit_covariance_on_the_rows_fitted():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)
    fitted_on = np.arange(100, 400)
    np.testing.assert_allclose(np.cov(whiten(vectors, fitted_on)[fitted_on].T), np.eye(6), atol=1e-3)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_ablations_are_configurations_that_differ_from_courier(changes):
    changed = load_config(PretrainConfig, "courier_cpu", changes) != load_config(PretrainConfig, "courier_cpu")
    assert changed == bool(changes)
