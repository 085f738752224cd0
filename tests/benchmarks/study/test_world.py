import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.study.world import CANDIDATES, TASTE, World, write_logs

WORLD = World(sizes=(40, 160), train_pages=60, test_pages=400, earlier_pages=50)
ITEMS = 300


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogue")
    rng = np.random.default_rng(0)
    names = np.array([f"i{n}" for n in range(ITEMS)])
    columns = {name: rng.choice(["a", "b", "c", "d"], ITEMS) for name in TASTE}
    columns |= {"cat_product_group": rng.choice(["x", "y"], ITEMS), "label_colour": columns["cat_colour"]}
    pq.write_table(pa.table({"item_id": names, "title": names, "image": names, **columns}), path / "items.parquet")
    (path / "images").mkdir()
    return path


@pytest.fixture(scope="module")
def worlds(catalogue, tmp_path_factory):
    """By size, the directory of its logs and the GAUC of the true taste."""
    output = tmp_path_factory.mktemp("worlds")
    return {size: (output / str(size), write_logs(WORLD, catalogue, output / str(size), size)) for size in WORLD.sizes}


def test_a_smaller_world_is_the_end_of_a_larger_one(worlds):
    few, many = (pq.read_table(worlds[size][0] / "impressions.parquet") for size in WORLD.sizes)
    assert few.drop_columns("split").equals(many.drop_columns("split").slice(len(many) - len(few)))
    counts = dict(zip(*np.unique(few["split"].to_numpy(), return_counts=True), strict=True))
    assert counts == {"pretrain": 40 * CANDIDATES, "train": 60 * CANDIDATES, "test": 400 * CANDIDATES}


def test_clicks_before_the_pages_are_events(worlds):
    known = []
    for size in WORLD.sizes:
        tables = [pq.read_table(worlds[size][0] / f"{name}.parquet") for name in ("events", "impressions")]
        clicked = tables[1].filter(tables[1]["clicked"])
        rows = [table.select(["user_id", "item_id", "timestamp"]) for table in (tables[0], clicked)]
        known.append(sorted(pa.concat_tables(rows).to_pylist(), key=str))
    assert known[0] == known[1]


def test_pages_show_an_item_once_and_tell_no_model_what_taste_is_made_of(worlds):
    path, _ = worlds[160]
    impressions = pq.read_table(path / "impressions.parquet")
    shown = impressions["item_id"].to_numpy(zero_copy_only=False).reshape(-1, CANDIDATES)
    assert all(len(set(page)) == CANDIDATES for page in shown)
    items = pq.read_table(path / "items.parquet")
    assert not {*TASTE} & {name for name in items.column_names if name != "category"}
    assert set(items["category"].to_pylist()) == {"x", "y"}


def test_true_taste_orders_pages_and_not_all_of_it_is_chance(worlds):
    (_, few), (_, many) = worlds.values()
    assert few == many
    assert 0.7 < few < 0.9
