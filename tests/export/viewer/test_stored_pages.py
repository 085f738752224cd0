import numpy as np
import pytest

from beam_pipelines.format.records import encode_page
from export.viewer.stored_pages import PageNumber, StoredPages
from tests.export.viewer.shop import MARKUP


@pytest.fixture(scope="module")
def stored(shop):
    return StoredPages(shop.dataset)


def test_every_record_is_that_of_its_number(shop, stored):
    assert stored.lengths == {"train": 12, "test": 2}
    for split, pages in shop.pages.items():
        for number, page in enumerate(pages):
            assert stored.record(PageNumber(split, number)) == encode_page(page)
            assert stored.summary(PageNumber(split, number)) == {
                "split": split,
                "number": number,
                "page_id": page["page_id"][0].decode(),
                "time": page["timestamp"][0],
                "candidates": len(page["item"]),
                "clicks": page["clicked"].sum(),
            }
    for number in (-1, 2):
        with pytest.raises(IndexError):
            stored.record(PageNumber("test", number))
    with pytest.raises(KeyError):
        stored.record(PageNumber("none", 0))


def test_pages_are_found_by_id_or_a_part_of_it(stored):
    assert [text for _, text in stored.find("page-1", 60)] == ["page-1"]
    assert {text for _, text in stored.find("age-1", 60)} == {"page-1", "page-10", "page-11"}
    assert len(stored.find("page", 5)) == 5
    assert stored.find(MARKUP, 60) == [(PageNumber("test", 0), f"long {MARKUP}")]
    assert stored.find("nothing", 60) == []


def test_a_user_has_the_pages_newest_first(shop, stored):
    users = {int(page["user"][0]) for page in shop.pages["train"]}
    assert len(users) > 1
    for user in users:
        found = [(p["timestamp"][0], p["page_id"]) for p in shop.pages["train"] if p["user"][0] == user]
        listed = [shop.pages[split][number] for split, number in stored.of_user(user)]
        assert [(p["timestamp"][0], p["page_id"]) for p in listed] == sorted(found, reverse=True)
    assert stored.of_user(99) == []


def test_items_are_counted_where_they_were_candidates(shop, stored):
    for split, pages in shop.pages.items():
        shown, clicked = np.zeros(35, int), np.zeros(35, int)
        for page in pages:
            for item, click in zip(page["item"], page["clicked"], strict=True):
                shown[item] += 1
                clicked[item] += click
        np.testing.assert_array_equal(stored.counts[split].shown, shown)
        np.testing.assert_array_equal(stored.counts[split].clicked, clicked)
        assert shown.sum() > clicked.sum() > 0
