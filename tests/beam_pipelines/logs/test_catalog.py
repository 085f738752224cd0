from collections import Counter

import pyarrow as pa
import pytest

from beam_pipelines.logs.catalog import build_table, newest_values


def rows(**columns):
    return pa.table(columns)


def test_the_newest_value_that_is_not_empty_counts():
    counters = Counter()
    table = rows(item_id=["b", "a", "a", "a"], title=["B", "old", "new", ""], stat_price=[1.0, 2.0, None, 3.0])
    found = newest_values("items", table, counters)
    assert found.to_pydict() == {"item_id": ["a", "b"], "title": ["new", "B"], "stat_price": [3.0, 1.0]}
    assert counters == {"items.duplicate": 2, "items.conflicting": 1}


@pytest.mark.parametrize("reverse", [False, True])
def test_updated_at_says_what_is_newest(reverse):
    columns = {"item_id": ["a", "a", "a"], "title": ["third", "first", "second"], "updated_at": [3, None, 2]}
    table = pa.table({name: values[::-1] if reverse else values for name, values in columns.items()})
    assert newest_values("items", table, Counter()).to_pydict() == {"item_id": ["a"], "title": ["third"]}


def test_rows_that_agree_are_no_conflict():
    counters = Counter()
    table = rows(item_id=["a", "a"], title=["t", "t"], image=["", "0.png"])
    assert newest_values("items", table, counters).to_pydict()["image"] == ["0.png"]
    assert counters == {"items.duplicate": 1, "items.conflicting": 0}


def test_ids_of_the_logs_without_a_row_get_an_empty_one():
    counters = Counter()
    items = newest_values("items", rows(item_id=["b"], title=["B"], image=["b.png"], published_at=[5]), counters)
    built = build_table("items", items, pa.array(["a", "b"]), counters)
    assert built.to_pylist() == [
        {"item_id": "a", "title": "", "image": "", "published_at": None},
        {"item_id": "b", "title": "B", "image": "b.png", "published_at": 5},
    ]
    assert counters["items.only_in_logs"] == 1
    assert build_table("users", None, pa.array(["u"]), counters).to_pylist() == [{"user_id": "u"}]
