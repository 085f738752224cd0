import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.records import encode_page
from export.viewer.ranker_view import RankerView
from models.data.dataset import Dataset
from models.data.pages import GROUPS, parse_pages, with_labels
from models.ranker.calibrator import Calibrator
from models.ranker.ranker import Ranker
from models.ranker.run import RankerRun
from tests.export.toy_ranker import LENGTHS, toy_pages
from tests.export.viewer.shop import HOSTILE
from tests.models.tiny_dataset import write_tiny_dataset


def own_pages(ranker):
    """The toy ranker's pages in its own rows, one by one."""
    for page in toy_pages():
        yield with_labels(parse_pages(tf.constant([encode_page(page)]), LENGTHS, to_longest=GROUPS))[0]


def test_rows_of_another_dataset_are_the_rankers_own(shop, ranker, ranker_view):
    """The shop has the items in another order; scores, logits and attention are those of the ranker's rows."""
    shop_pages = sorted(shop.pages["train"], key=lambda page: int(page["timestamp"][0]))
    attended = 0
    for own, page in zip(own_pages(ranker), shop_pages[:5], strict=False):  # with 12, 0, 3 and no steps
        insight = ranker_view.look(encode_page(page))
        np.testing.assert_allclose(insight.parts["outputs"]["ctr"], ranker(own)["ctr"][0], atol=1e-6)
        np.testing.assert_allclose(insight.parts["logits"]["ctr"], ranker.logits(own)["ctr"][0], atol=1e-5)
        for name, weights in ranker.attention_weights(own).items():
            found = insight.attention[name]
            np.testing.assert_allclose(found.whole, weights.whole[0].numpy().mean(0), atol=1e-6)
            np.testing.assert_allclose(found.recent, weights.recent[0], atol=1e-6)
            attended += found.whole.size
    assert attended > 100


def test_parts_lead_to_the_score(shop, toy_run, ranker, ranker_view, tmp_path):
    """Of a ranker that learned on half of the unclicked candidates, and is calibrated."""
    calibrator = Calibrator(kind="platt", y=(-1.0,), slope=2.0)
    config = ranker.get_config() | {"negative_rate": 0.5, "calibrator": calibrator.model_dump()}
    other = Ranker.from_config(config)
    other.set_weights(ranker.get_weights())
    tables = {"items": toy_run.items(), "users": toy_run.users(), "training_counts": toy_run.training_counts()}
    run = RankerRun.save(tmp_path, other, toy_run.metadata, toy_run.config(), **tables)
    record = encode_page(shop.pages["train"][0])
    parts, plain = RankerView(run, shop.dataset).look(record).parts, ranker_view.look(record).parts
    assert (parts["negative_rate"], parts["calibration"], parts["members"]) == (0.5, "platt", 1)
    np.testing.assert_allclose(parts["logits"]["ctr"], plain["logits"]["ctr"], rtol=1e-6)
    corrected = np.array(plain["logits"]["ctr"]) + np.log(0.5)
    np.testing.assert_allclose(parts["corrected"], corrected, rtol=1e-5)
    np.testing.assert_allclose(parts["calibrated"], 2 * corrected - 1, rtol=1e-5)
    np.testing.assert_allclose(parts["outputs"]["ctr"], 1 / (1 + np.exp(1 - 2 * corrected)), rtol=1e-5)


def test_unknown_items_and_long_histories_are_looked_at(shop, ranker_view):
    insight = ranker_view.look(encode_page(shop.pages["test"][0]))
    unknown = len(HOSTILE)
    scores = insight.parts["outputs"]["ctr"]
    assert len(scores) == 8
    assert np.unique(scores[:unknown]).size == 1  # nothing tells them apart
    assert {name: weights.whole.shape for name, weights in insight.attention.items()} == {
        name: (8, getattr(LENGTHS, name)) for name in ("click", "pay", "cart")
    }
    nothing = ranker_view.look(encode_page(shop.pages["test"][1]))
    assert nothing.parts["outputs"]["ctr"] == []


def test_seen_items_are_those_of_the_training(shop, ranker_view):
    expected = [toy >= 0 and toy % 3 > 0 for toy in shop.toy_row]
    assert ranker_view.seen.tolist() == expected


def test_picture_tables_are_by_the_datasets_rows(shop, ranker, ranker_view):
    tables = ranker_view.picture_tables()
    own = {name: table.numpy() for name, table in ranker.items.pictures.tables.items()}
    for shop_row, toy in enumerate(shop.toy_row):
        assert tables.clusters[shop_row] == (own["cluster"][toy] - 1 if toy >= 0 else -1)
        expected = own["center"][own["cluster"][toy]] if toy >= 0 else np.zeros(6)
        np.testing.assert_array_equal(tables.vectors[shop_row], expected)
    assert not tables.have_neighbours


def test_a_ranker_of_other_items_is_refused(toy_run, tmp_path):
    other = Dataset(write_tiny_dataset(tmp_path, items=20, users=5, pages=12).data)
    with pytest.raises(ArtifactError, match="knows none of the items of"):
        RankerView(toy_run, other)
