import keras
import numpy as np
import pytest
import tensorflow as tf

from models.metrics.effective_rank import effective_rank, mean_cosine
from models.pretraining.monitor.similarity_gauc import similarity_gauc
from models.pretraining.monitor.validation import SimilarityValidation

PICTURES = np.random.default_rng(0).integers(0, 255, (30, 4, 4, 3)).astype(np.uint8)
PAGES = {  # not all pictures are on a page
    "candidate_picture": np.array([[3, 7, 9, -1], [21, 3, 11, 29]]),
    "clicked": np.array([[True, False, False, False], [False, False, True, False]]),
    "click_picture": np.array([[5, 7, -1], [14, -1, -1]]),
}
SHOWN = [3, 5, 7, 9, 11, 14, 21, 29]


class Pretrained(keras.Model):
    """As far as the validation knows it: a model with an encoder."""

    def __init__(self):
        super().__init__()
        inputs = keras.Input((4, 4, 3), dtype="uint8")
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
        self.encoder = keras.Model(inputs, keras.layers.Dense(6, kernel_initializer=self._draw)(x))

    @staticmethod
    def _draw(shape, dtype=None):
        return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.fixture
def validation():
    validation = SimilarityValidation(PAGES, lambda numbers: tf.gather(PICTURES, numbers))
    validation.set_model(Pretrained())
    return validation


def test_an_epoch_is_measured_on_the_pictures_of_the_pages(validation):
    embeddings = validation.model.encoder(PICTURES).numpy()
    logs = {"loss": 1.0}
    validation.on_epoch_end(0, logs)
    assert logs == {
        "loss": 1.0,
        "val_similarity_gauc": similarity_gauc(embeddings, PAGES).gauc_page_mean,
        "val_effective_rank": pytest.approx(effective_rank(embeddings[SHOWN]), rel=1e-5),
        "val_mean_cosine": pytest.approx(mean_cosine(embeddings[SHOWN]), rel=1e-5),
    }
    assert validation.measure() == similarity_gauc(embeddings, PAGES)


def test_pages_are_told_by_rows_of_the_distinct_pictures(validation):
    np.testing.assert_array_equal(validation.pictures, SHOWN)
    for name in ("candidate_picture", "click_picture"):
        rows = validation.pages[name]
        np.testing.assert_array_equal(np.where(rows < 0, -1, validation.pictures[rows]), PAGES[name])
    embeddings = validation.model.encoder(PICTURES[SHOWN]).numpy()
    np.testing.assert_allclose(validation.embed(), embeddings, rtol=1e-5, atol=1e-6)


def test_a_collapsed_encoder_shows(validation):
    kernel, bias = validation.model.encoder.weights
    kernel.assign(kernel * 1e-7)
    bias.assign(np.ones(6))
    logs = {}
    validation.on_epoch_end(0, logs)
    assert logs["val_effective_rank"] == pytest.approx(1.0, abs=1e-3)
    assert logs["val_mean_cosine"] == pytest.approx(1.0, abs=1e-6)
