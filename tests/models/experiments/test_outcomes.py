import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines.format.errors import InputError
from models.experiments.exposures import read_exposures
from models.experiments.outcomes import read_outcomes
from tests.models.experiments.shop import DAY, EXPERIMENT, START, Shop, simulate, write_shop

FOUR = Shop(
    *map(np.array, ([0, 1, 2, 3, 0, 1, 0], [0, 0, 0, 1, 2, -1, -9], [3, 0, 1, 0, 2, 4, 1], [2, 0, 0, 0, 1, 3, 1]))
)


def read(folder, shop, **options):
    logs, exposures = write_shop(folder, shop)
    return logs, (found := read_exposures([exposures], EXPERIMENT)), read_outcomes(logs, found, **options)


def test_sums_are_by_user_and_by_day(tmp_path):
    _, exposed, found = read(tmp_path, FOUR, value="stat_price", before_days=7, days=3)
    assert exposed.user_ids.to_pylist() == ["b0000", "b0001", "b0002", "b0003"]
    assert found.after["impressions"].tolist() == [[4, 0, 4], [4, 0, 0], [4, 0, 0], [0, 4, 0]]
    assert found.after["clicks"].tolist() == [[3, 0, 2], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert found.after["orders"].tolist() == [[2, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert found.after["value"].tolist() == [[30, 0, 10], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert found.before["clicks"].tolist() == [0, 4, 0, 0]  # what is nine days old is too old
    assert found.before["value"].tolist() == [0, 70, 0, 0]
    assert found.first_day.tolist() == [0, 0, 0, 1]
    assert found.start == START
    assert found.counts["orders_are"] == "converted impressions"
    assert (found.counts["exposed_pages_in_logs"], found.counts["users_not_in_logs"]) == (5, 0)


def test_without_days_all_is_one_sum_and_without_before_nothing_is_known(tmp_path):
    _, _, found = read(tmp_path, FOUR, before_days=0)
    assert found.after["impressions"].tolist() == [[8], [4], [4], [4]]
    assert (found.before, "value" in found.after) == ({}, False)


def test_what_comes_after_the_plan_is_left_out(tmp_path):
    _, _, found = read(tmp_path, FOUR, days=2)
    assert found.after["clicks"].tolist() == [[3, 0], [0, 0], [1, 0], [0, 0]]


def test_order_and_repetition_of_rows_do_not_matter(tmp_path):
    logs, exposed, found = read(tmp_path, simulate(30, 3, 3), value="stat_price", days=3)
    rows = pq.read_table(logs / "impressions.parquet")
    order = np.random.default_rng(0).permutation(len(rows) * 2) % len(rows)
    pq.write_table(rows.take(order), logs / "impressions.parquet")
    again = read_outcomes(logs, exposed, value="stat_price", days=3)
    for side in ("after", "before"):
        for name, sums in getattr(found, side).items():
            np.testing.assert_array_equal(getattr(again, side)[name], sums)
    assert again.counts["impressions_repeated"] == again.counts["impressions"] / 2


def test_orders_are_pay_events_if_there_are_any(tmp_path):
    logs, exposed, _ = read(tmp_path, FOUR)
    lines = [("b0001", "i3", START + 5000, "pay"), ("b0001", "i3", START + 9000, "click"), ("u9", "i3", START, "pay")]
    names = ("user_id", "item_id", "timestamp", "event")
    (logs / "events.jsonl").write_text(
        "".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in lines)
    )
    found = read_outcomes(logs, exposed, value="stat_price")
    assert found.after["orders"].tolist() == [[0], [1], [0], [0]]
    assert found.after["value"].tolist() == [[0], [80], [0], [0]]
    assert found.counts["orders_are"] == "pay events"


def test_exposures_and_logs_must_belong_together(tmp_path):
    shop = simulate(40, 3, 3)
    for name in ("late", "others"):
        (tmp_path / name).mkdir()
    logs, late = write_shop(tmp_path / "late", shop, clock=3_600_000)
    _, others = write_shop(tmp_path / "others", shop, prefix="v")
    for exposures, text in (
        (late, "exposed pages are in the logs from before their exposure: 'p"),
        (late, "was shown 3,600 s earlier"),
        (others, "0 of 40 exposed users have impressions in the logs"),
    ):
        with pytest.raises(InputError, match=re.escape(text)):
            read_outcomes(logs, read_exposures([exposures], EXPERIMENT))
    exposed = read_exposures([late], EXPERIMENT)
    much_later = exposed._replace(first=exposed.first + 99 * DAY, page_ids=pa.array([], pa.string()))
    with pytest.raises(InputError, match="impressions of the exposed users are earlier than their exposures"):
        read_outcomes(logs, much_later)


def test_a_value_must_be_a_number_of_items(tmp_path):
    logs, exposed, _ = read(tmp_path, FOUR)
    with pytest.raises(InputError, match=re.escape("`value` must be a column stat_* of items. Received: price (there")):
        read_outcomes(logs, exposed, value="price")
    items = pq.read_table(logs / "items.parquet")
    pq.write_table(items.slice(1), logs / "items.parquet")
    with pytest.raises(InputError, match=r"`value`: \d of \d orders are of items without stat_price"):
        read_outcomes(logs, exposed, value="stat_price")
