import re

import pytest

from export import History, Page, PageError


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({}, "a page must have 'user_id'. Received: nothing"),
        ({"user_id": "a"}, "a page must have 'item_id'. Received: user_id"),
        ({"user_id": 1, "item_id": []}, "user_id: must be text. Received: 1"),
        ({"user_id": "a", "item_id": [], "page_id": 1}, "page_id: must be text. Received: 1"),
        ({"user_id": "a", "item_id": "7"}, "item_id: must be a list. Received: 7"),
        ({"user_id": "a", "item_id": ["7"], "timestamp": 1.5}, "timestamp: must be a whole number"),
        (
            {"user_id": "a", "item_id": ["7"], "clicks_7d": []},
            "clicks_7d: must have one value per item_id. Received: 0",
        ),
        (
            {"user_id": "a", "item_id": ["7"], "click_item_id": ["7"]},
            "click_time: must have one value per click_item_id",
        ),
        ({"user_id": "a", "item_id": [7]}, "item_id: must be text. Received: [7]"),
        ({"user_id": "a", "item_id": ["7"], "cart_item_id": ["7"], "cart_time": [1.5]}, "cart_time: must be int64"),
    ],
)
def test_what_is_no_page_is_named(ranker_client, row, text):
    with pytest.raises(PageError, match=re.escape(text)):
        ranker_client.rank(Page.from_row(row))


def test_histories_have_their_names():
    with pytest.raises(PageError, match=r"histories: must be of click, pay, cart\. Received: 'likes'"):
        Page("a", ["7"], histories={"likes": History()})
