import keras
import numpy as np
import tensorflow as tf

from examples.own_feature import DAY, DaysSinceClick, MyRanker, main
from models import Dataset
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths

SMALL = RankerConfig(
    lengths=RankerLengths(click=20, pay=0, cart=0),
    attention=AttentionConfig(recent_steps=10, histories="none"),
    mlp_units=(16, 8),
)


def test_a_ranker_with_its_own_features_learns_and_is_loaded(sample_dataset, tmp_path):
    gauc = main(sample_dataset, tmp_path / "ranker.keras", epochs=1, config=SMALL)
    assert 0 < gauc < 1
    ranker = keras.models.load_model(tmp_path / "ranker.keras")
    assert isinstance(ranker, MyRanker)
    assert ranker.hour_dim == 4
    page, _, _ = next(iter(Dataset(sample_dataset).pages("test").batches(8)))
    before = ranker(page)["ctr"].numpy()
    hours = ranker(page | {"timestamp": page["timestamp"] + 5 * 3_600_000})["ctr"].numpy()
    assert np.abs(hours - before).max() > 1e-6
    assert ranker.members[0].extra_page_tower.embedding.embeddings.shape == (24, 4)


def test_days_since_the_last_click_on_a_candidate():
    page = {
        "timestamp": tf.constant([10 * DAY], tf.int64),
        "item": tf.constant([[3, 5, -1]], tf.int64),
        "click_item": tf.constant([[7, 3, 3, -1]], tf.int64),
        "click_time": tf.constant([[9 * DAY, 8 * DAY, 2 * DAY, -1]], tf.int64),
    }
    found = DaysSinceClick()(page).numpy()
    np.testing.assert_allclose(found[0], [[np.exp(-2), 1], [0, 0], [0, 0]], rtol=1e-5)
    no_history = page | {name: page[name][:, :0] for name in ("click_item", "click_time")}
    np.testing.assert_array_equal(DaysSinceClick()(no_history), np.zeros((1, 3, 2)))
