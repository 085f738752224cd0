import keras
import numpy as np

from examples import train_and_rank
from models import Clusters, Dataset


def test_it_trains_ranks_and_saves(sample_dataset, tmp_path):
    keras.utils.set_random_seed(0)
    gauc = train_and_rank.main(sample_dataset, tmp_path, encoder_epochs=1, ranker_epochs=2)
    assert 0.4 < gauc < 1
    assert len(Clusters.load(tmp_path / "clusters").centers) > 1
    ranker = keras.models.load_model(tmp_path / "ranker.keras")
    ranker.run_eagerly = True  # a few batches: a graph would take longer
    pages = Dataset(sample_dataset).pages("test")
    scores = ranker.predict(pages.batches(64), verbose=0)["ctr"]
    assert len(scores) == len(pages)
    assert np.isfinite(scores).all()
