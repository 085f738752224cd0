"""An item that the table does not have is scored as if it were there, unseen in training, with the same features."""

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_pipelines.format.records import HISTORIES, encode_page
from export.server.servable import Servable
from export.version.graph import RankerModule
from export.version.inputs import request_inputs
from export.version.request_rows import complete, pad_rows
from models.features.adapt import adapt_features
from models.features.spec import (
    STATISTICS,
    CategoryFeature,
    FeaturesConfig,
    HashFeature,
    IdFeature,
    NumberFeature,
    TextFeature,
    resolve_features,
)
from models.features.training_counts import TrainingCounts
from models.ranker.config import RankerConfig, RankerLengths
from models.ranker.ranker import Ranker
from models.ranker.run import RowIds

ITEMS = 20
CLUSTERS = 4
IDS = [f"item-{n}" for n in range(ITEMS)]
NEW = "the new one"
LENGTHS = RankerLengths(candidates=6, click=6, pay=4, cart=2)
FEATURES = FeaturesConfig(
    item={
        "item_id": IdFeature(),
        "category": CategoryFeature(match=True),
        "brand": HashFeature(buckets=30, match=True),
        "title": TextFeature(tokens=4),
        "stat_price": NumberFeature(),
        "stat_stock": NumberFeature(transform="log"),
        "stat_age": NumberFeature(transform="buckets", buckets=5),
    },
)
COLUMNS = [name for name in FEATURES.item if name != "item_id"]


def item_table(random):
    return pa.table(
        {
            "item_id": IDS,
            "category": [("rings", "chains", "")[n % 3] for n in range(ITEMS)],
            "brand": [("Ash", "Óro", "", "銀")[n % 4] for n in range(ITEMS)],
            "title": [f"gold ring {n}, 14 karat" for n in range(ITEMS)],
            "stat_price": random.random(ITEMS) * 100,
            "stat_stock": random.integers(0, 1000, ITEMS).astype(float),
            "stat_age": random.random(ITEMS) * 30,
        }
    )


class Sides:
    """Two rankers of equal weights: one has the new item as the last row of its table, the other not at all.

    With `levels` above 1 they know pictures by semantic IDs, of which the first level is the cluster.
    """

    def __init__(self, scratch, levels=1):
        image_feature = "cluster_id,semantic_id" if levels > 1 else "cluster_id"
        self.levels = levels
        random = np.random.default_rng(0)
        self.items = item_table(random)
        self.users = pa.table({"user_id": ["anna"], "cat_country": ["NO"]})
        self.picture_ids = random.integers(-1, CLUSTERS**levels, ITEMS)
        self.centers = random.standard_normal((CLUSTERS, 5), np.float32)
        self.numbers = {name: random.random(50) * 30 for name in STATISTICS}
        features = resolve_features(FEATURES, self.items.schema, self.users.schema)
        self.config = RankerConfig(lengths=LENGTHS, features=features, token_buckets=50, mlp_units=(16, 8))
        nothing = {**{name: "" for name in COLUMNS[:3]}, **{name: None for name in COLUMNS[3:]}}
        with_it, without_it = self._tables([(nothing, -1)]), self._tables([])
        assert with_it.vocabulary == without_it.vocabulary
        keras.utils.set_random_seed(0)
        self.with_it = Ranker(self.config, with_it.sizes, image_feature)
        without = Ranker(self.config, without_it.sizes, image_feature)
        for mine, other in zip(self.with_it.trainable_variables, without.trainable_variables, strict=True):
            mine.assign(mine + 0.1 * random.standard_normal(mine.shape))
            other.assign(mine)
        without.fill(without_it)
        self.similarity = without.items.pictures.tables["center_similarity"].numpy()
        self.inputs = request_inputs(without)
        RankerModule(without, RowIds(IDS, ["anna"]), scratch).save(scratch / "1")
        self.servable = Servable(scratch / "1", 1)

    def _tables(self, new):
        """The feature tables with more items at the end: their features and the IDs of their pictures."""
        columns = {
            name: pa.array(
                self.items[name].to_pylist() + [NEW if name == "item_id" else said[name] for said, _ in new],
                self.items.schema.field(name).type,
            )
            for name in self.items.column_names
        }
        seen = np.r_[np.full(ITEMS, 9), np.zeros(len(new), np.int64)]
        picture_ids = np.r_[self.picture_ids, [picture_id for _, picture_id in new]].astype(np.int64)
        semantic = {"semantic_ids": picture_ids, "levels": self.levels} if self.levels > 1 else {}
        counts = TrainingCounts(seen, np.array([9]), self.numbers)
        return adapt_features(
            self.config.features,
            pa.table(columns),
            self.users,
            counts,
            token_buckets=self.config.token_buckets,
            cluster_ids=(picture_ids // CLUSTERS ** (self.levels - 1)).astype(np.int32),
            centers=self.centers,
            **semantic,
        )

    def in_the_table(self, row, said, picture_id):
        """The scores of a request by the ranker whose table has the new item."""
        self.with_it.fill(self._tables([(said, picture_id)]))
        # Known of the items that were there.
        self.with_it.items.pictures.tables["center_similarity"].assign(self.similarity)
        rows = {name: n for n, name in enumerate([*IDS, NEW])}
        page = {
            "user": 0,
            "query": row["query"],
            "timestamp": row["timestamp"],
            "item": np.array([rows[name] for name in row["item_id"]], np.int64),
            **{name: np.array(row[name], np.float32) for name in STATISTICS},
        }
        for name in HISTORIES:
            page[f"{name}_item"] = np.array([rows[each] for each in row[f"{name}_item_id"]], np.int64)
            page[f"{name}_time"] = np.array(row[f"{name}_time"], np.int64)
        return self.with_it({name: tf.constant(np.array([value])) for name, value in page.items()})["ctr"].numpy()[0]

    def served(self, *rows):
        """The scores of requests by the version whose table does not have the item."""
        return self.servable.predict("", complete(pad_rows(rows), self.inputs))["ctr"]


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    sides = Sides(tmp_path_factory.mktemp("new_items"))
    yield sides
    sides.servable.close()


TEXTS = {
    "category": st.sampled_from(["rings", "chains", "", "tiaras"]),
    "brand": st.sampled_from(["Ash", "Óro", "", "new brand"]),
    "title": st.sampled_from(["", "Gold RING, new", "指輪 of 18 karat gold and more words"]),
}
NUMBERS = st.none() | st.floats(-100, 2000, width=32)


@st.composite
def requests(draw):
    """A request that shows the new item, what is said of it, and its cluster."""
    said = {name: draw(TEXTS.get(name, NUMBERS)) for name in COLUMNS}
    cluster = draw(st.integers(-1, CLUSTERS - 1))
    others = draw(st.lists(st.sampled_from(IDS), max_size=4, unique=True))
    candidates = draw(st.permutations([NEW, *others]))
    row = {
        "user_id": "anna",
        "query": draw(st.sampled_from(["", "gold ring"])),
        "timestamp": 1_700_000_000_000,
        "item_id": candidates,
        **{name: [draw(st.integers(-1, 40)) for _ in candidates] for name in STATISTICS},
    }
    for name in HISTORIES:
        steps = draw(st.lists(st.sampled_from([NEW, *IDS[:5]]), max_size=getattr(LENGTHS, name)))
        row[f"{name}_item_id"] = steps
        row[f"{name}_time"] = [row["timestamp"] - 3_600_000 * 7**n for n in range(len(steps))]
    for name in COLUMNS:
        # Other candidates are in the table: what is said of them must make no difference.
        other = draw(TEXTS[name]) if name in TEXTS else draw(st.floats(0, 9, width=32))
        missing = float("nan") if said[name] is None else said[name]
        row[name] = [missing if each == NEW else other for each in candidates]
    row["cluster_id"] = [cluster if each == NEW else draw(st.integers(-1, 9)) for each in candidates]
    return row, said, cluster


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests())
def test_a_new_item_is_scored_as_if_it_were_in_the_table(sides, request):
    row, said, cluster = request
    np.testing.assert_allclose(sides.served(row)[0], sides.in_the_table(row, said, cluster), rtol=0, atol=1e-6)


@pytest.fixture
def row():
    row = {
        "user_id": "anna",
        "query": "gold",
        "timestamp": 1_700_000_000_000,
        "item_id": [NEW, "item-3"],
        **{name: [3, 4] for name in STATISTICS},
        "click_item_id": [NEW, "item-0", "item-3"],
        "click_time": [1_600_000_000_000] * 3,
    }
    return {**row, **{f"{name}_{part}": [] for name in ("pay", "cart") for part in ("item_id", "time")}}


FIRST = {
    "category": "rings",
    "brand": "Ash",
    "title": "gold ring",
    "stat_price": 7.0,
    "stat_stock": 90.0,
    "stat_age": 1.0,
}


def test_every_feature_of_a_new_item_counts(sides, row):
    said = {name: [value, value] for name, value in {**FIRST, "cluster_id": 2}.items()}
    whole = sides.served({**row, **said})[0, 0]
    for name in said:
        left_out = {each: value for each, value in said.items() if each != name}
        assert abs(sides.served({**row, **left_out})[0, 0] - whole) > 1e-5, name


def test_pages_of_a_batch_may_say_different_things_of_an_item(sides, row):
    first = {**row, **{name: [value, value] for name, value in FIRST.items()}, "cluster_id": [1, 1]}
    second = {**first, "category": ["chains", ""], "cluster_id": [3, 3], "click_item_id": [NEW] * 3}
    third = {**first, "item_id": ["item-1", "item-2"]}  # its history has an unknown item that is no candidate
    together = sides.served(first, second, third)
    for alone, scores in zip((first, second, third), together, strict=True):
        np.testing.assert_allclose(scores, sides.served(alone)[0], rtol=0, atol=1e-6)
    assert abs(together[0, 0] - together[1, 0]) > 1e-4


def test_cluster_ids_beyond_those_of_the_ranker_are_unknown(sides, row):
    scores = [sides.served({**row, "cluster_id": [cluster, -1]})[0] for cluster in (-1, CLUSTERS, 2**40, -7)]
    for each in scores[1:]:
        np.testing.assert_array_equal(each, scores[0])
    assert abs(sides.served({**row, "cluster_id": [CLUSTERS - 1, -1]})[0, 0] - scores[0][0]) > 1e-5


def test_a_new_item_is_known_by_all_levels_of_its_semantic_id(tmp_path, row):
    sides = Sides(tmp_path, levels=3)
    assert "cluster_id" not in sides.inputs
    said = {**row, **{name: [value, value] for name, value in FIRST.items()}}
    alike = [40, 41, 36, 24, 63, 64, -1]  # 64 is beyond the IDs of the ranker
    scores = [sides.served({**said, "semantic_id": [number, 5]})[0] for number in alike]
    for number, served in zip(alike[:2], scores, strict=False):
        np.testing.assert_allclose(served, sides.in_the_table(row, FIRST, number), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(scores[-1], scores[-2])
    firsts = np.array([each[0] for each in scores[:-1]])
    assert np.abs(firsts[:, None] - firsts)[~np.eye(len(firsts), dtype=bool)].min() > 1e-6
    sides.servable.close()


def test_rows_of_page_records_beyond_the_tables_are_unknown(sides):
    def scores(user, item, step):
        page = {"page_id": [b"p"], "user": [user], "timestamp": [1_700_000_000_000], "query": [b""]}
        candidates = {name: [0, 0] for name in ("position", "clicked", "converted", "dwell", *STATISTICS)}
        page |= {"item": [item, 1], **candidates, "click_item": [1, step], "click_time": [5, 4]}
        page |= {f"{name}_{part}": [] for name in ("pay", "cart") for part in ("item", "time")}
        record = encode_page(
            {
                name: np.array(value) if value and not isinstance(value[0], bytes) else value
                for name, value in page.items()
            }
        )
        return sides.servable.predict("tf_example", {"examples": np.array([record], object)})["ctr"][0, :2]

    unknown = scores(-1, ITEMS, ITEMS)
    np.testing.assert_allclose(scores(1, ITEMS + 5, ITEMS + 9), unknown, rtol=0, atol=1e-6)
    np.testing.assert_allclose(scores(2**40, 2**40, 2**41), unknown, rtol=0, atol=1e-6)
    assert np.abs(scores(0, 3, 4) - unknown).max() > 1e-4
