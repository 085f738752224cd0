import keras
import numpy as np

from examples.own_loss import ListwiseSoftmax, main
from tests.examples.test_own_feature import SMALL


def test_a_ranker_learns_with_its_own_loss_and_is_loaded_with_it(sample_dataset, tmp_path):
    gauc = main(sample_dataset, tmp_path / "ranker.keras", epochs=1, config=SMALL)
    assert 0 < gauc < 1
    assert isinstance(keras.models.load_model(tmp_path / "ranker.keras")._compiled_with["loss"], ListwiseSoftmax)


def test_the_loss_leaves_padding_out():
    loss = ListwiseSoftmax(reduction=None)
    labels, logits = np.array([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), np.array([[0.5, 1.5, 99.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(loss(labels, logits), [np.log1p(np.exp(1.0)), 0.0], rtol=1e-5)
