import datetime

import pytest

from export.daily.bounds import DayBounds
from export.daily.day_check import whats_wrong
from export.daily.day_facts import DayFacts, Span

DAY = datetime.date(2026, 3, 9)
GOOD = DayFacts(
    pages=1000,
    impressions=10_000,
    clicks=500,
    users=300,
    duplicates=10,
    most_clicks=9,
    joins={"impressions.items": 0.99},
    items=100,
    items_with_picture=98,
    rejected=0,
)


def wrong(*, usual=(GOOD,), **changes):
    return whats_wrong(GOOD.model_copy(update=changes), usual, DayBounds(), DAY)


def test_a_usual_day_is_good():
    assert wrong() == []


@pytest.mark.parametrize(
    ("changes", "bounds"),
    [
        ({"impressions": 0, "pages": 0, "clicks": 0}, ["no impressions on 2026-03-09"]),
        ({"pages": 599}, ["min_volume"]),
        ({"pages": 601}, []),
        ({"pages": 2001}, ["max_volume"]),
        ({"pages": 99}, ["min_pages", "min_volume"]),
        ({"clicks": 1500}, ["max_volume", "max_click_rate"]),
        ({"clicks": 200}, ["min_volume", "min_click_rate"]),
        ({"most_clicks": 101}, ["max_user_share"]),
        ({"duplicates": 501}, ["max_duplicates"]),
        ({"joins": {"impressions.items": 0.93}}, ["max_join_drop"]),
        ({"joins": {"impressions.items": 0.95, "impressions.users": 0.1}}, []),  # nothing is known of users
        ({"items_with_picture": 0}, ["max_picture_drop"]),
    ],
)
def test_each_bound(changes, bounds):
    found = wrong(**changes)
    assert len(found) == len(bounds)
    for line, bound in zip(found, bounds, strict=True):
        assert bound in line


def test_usual_is_the_median():
    days = [GOOD.model_copy(update={"pages": pages}) for pages in (100, 1000, 5000)]
    assert wrong(usual=days, pages=601) == []
    assert len(wrong(usual=days, pages=599)) == 1


def test_a_day_is_of_utc():
    span = Span.of(datetime.date(1970, 1, 2))
    assert span == (86_400_000, 2 * 86_400_000)
