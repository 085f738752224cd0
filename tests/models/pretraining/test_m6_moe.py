"""M6's whole loss: the contrast of two views of each item, and the balance of the experts."""

import keras
import numpy as np
import pytest

from models.pretraining.m6_moe import M6MoE
from models.vision.encoder import ImageEncoder
from models.vision.m6 import M6
from tests.models.courier_batch import loss_of
from tests.models.pretraining.test_pair_method import draw_batch
from tests.models.pretraining.test_simclr import reference as contrast_reference


def make(capacity_factor=1.25, **options):
    keras.utils.set_random_seed(0)
    backbone = M6(4, 8, 2, 2, 3, 6, capacity_factor=capacity_factor, vocabulary=12)
    return M6MoE(ImageEncoder(backbone, 6), title_share=0.7, **options)


@pytest.mark.parametrize(("numbers", "padding"), [([3], 2), ([3, 90, 33], 0), ([5, 90, 33, 7, 120], 3)])
@pytest.mark.parametrize("capacity_factor", [None, 0.5])
def test_the_loss_is_the_mean_contrast_and_the_weighted_balance(numbers, padding, capacity_factor):
    model, batch = make(capacity_factor, temperature=0.3, balance_weight=0.1), draw_batch(numbers, padding=padding)
    made = {name: np.asarray(value) for name, value in model(batch).items()}
    assert made["counted"].tolist() == [True] * len(numbers) + [False] * padding
    contrast = contrast_reference(made["view_1"], made["view_2"], made["counted"], 0.3) / (2 * len(numbers))
    assert float(loss_of(model, batch)) == pytest.approx(contrast + 0.1 * float(made["balance"][0]), rel=1e-5)
    reported = model.get_metrics_result()
    assert float(reported["balance"]) == pytest.approx(float(made["balance"][0]) / 2, rel=1e-5)  # of two blocks
    assert float(reported["dropped_share"]) == pytest.approx(float(made["dropped"][0] / made["choices"][0]), abs=1e-6)
    if capacity_factor is None:
        assert made["dropped"][0] == 0


def test_collapse_is_the_logarithm_of_the_other_views():
    model, batch = make(balance_weight=0.0), draw_batch([5, 90, 33, 7], padding=2)
    projection = model.encoder.projection
    projection.set_weights([np.zeros_like(projection.kernel), np.ones_like(projection.bias)])
    assert float(loss_of(model, batch)) == pytest.approx(np.log(2 * 4 - 1), rel=1e-6)
