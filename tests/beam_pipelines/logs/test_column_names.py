from pathlib import Path

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.column_names import find_columns

FILE = Path("items.csv")


def test_names_may_differ_in_case_spaces_and_underscores():
    names = ["ITEM_ID", " category", "Title", "image", "STAT_PRICE", "Label Style", "other"]
    assert find_columns("items", names, {}, FILE) == {
        "item_id": "ITEM_ID",
        "category": " category",
        "title": "Title",
        "image": "image",
        "stat_price": "STAT_PRICE",
        "label_style": "Label Style",
    }


def test_the_very_name_comes_first():
    names = ["item_id", "ITEM_ID", "itemId", "stat_Price", "stat_price"]
    assert find_columns("items", names, {}, FILE) == {
        "item_id": "item_id",
        "stat_Price": "stat_Price",
        "stat_price": "stat_price",
    }


def test_two_names_for_one_column_are_an_error():
    with pytest.raises(
        InputError, match=r"items.csv: each of 'ITEM_ID', 'itemId' may be items.item_id; pass `columns`"
    ):
        find_columns("items", ["ITEM_ID", "itemId"], {}, FILE)


def test_a_name_that_was_told_comes_before_all():
    assert find_columns("items", ["item_id", "ITEM_ID", "sku"], {"item_id": "sku"}, FILE) == {"item_id": "sku"}
    assert find_columns("items", ["item_id"], {"item_id": "sku"}, FILE) == {}
