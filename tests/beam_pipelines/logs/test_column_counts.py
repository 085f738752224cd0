import itertools
import re

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.column_counts import ColumnCounts, LostValue, check_columns


def test_counts_merge_in_any_order():
    parts = [
        ColumnCounts(3, 3, 1),
        ColumnCounts(5, 4, 0, LostValue("b.csv", 2, "x")),
        ColumnCounts(2, 0, 2, LostValue("a.csv", 10, "y")),
        ColumnCounts(1, 0, 0, LostValue("a.csv", 9, "z")),
    ]
    for first, *others in itertools.permutations(parts):
        merged = first
        for other in others:
            merged = merged.merge(other)
        assert merged == ColumnCounts(11, 7, 3, LostValue("a.csv", 9, "z"))


def test_a_column_that_loses_its_values_is_an_error():
    lost = LostValue("items.csv", 2, "$9.99")
    columns = {"stat_price": ColumnCounts(10, 9, 0, lost), "category": ColumnCounts(0, 0), "other": ColumnCounts(5, 0)}
    check_columns("items", columns, 0.1)
    with pytest.raises(
        InputError, match=re.escape("items.stat_price: only 9 of 10 values could be read (e.g. '$9.99' in")
    ):
        check_columns("items", columns, 0.09)
    message = (
        "items.stat_price: none of 6 values could be read (e.g. '$9.99' in items.csv:2); accepted: a number such as "
        "9.99; `max_bad_fraction` allows 0.5"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_columns("items", {"stat_price": ColumnCounts(6, 0, 0, lost)}, 0.5)
    year = {"published_at": ColumnCounts(9, 5, 0, LostValue("items.csv", 2, "1998"))}
    with pytest.raises(
        InputError, match=r"\(e\.g\. '1998' in items\.csv:2, looks like a year alone; write .*\); accepted: epoch"
    ):
        check_columns("items", year, 0.1)


def test_rows_that_are_rejected_are_counted_elsewhere():
    lost = LostValue("events.csv", 2, "wish")
    check_columns("events", {"event": ColumnCounts(6, 0, 0, lost)}, 0.1)
    check_columns("users", {"user_id": ColumnCounts(6, 0, 0, lost)}, 0.1)
