import dataclasses
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.pages.reused_pages import AFTER_A_PAUSE, SEVERAL_USERS, Example
from beam_pipelines.pages.rules import MINUTE_MS, PageRules
from tests.beam_pipelines.page_reference import comparable, reference_pages, reference_uses
from tests.beam_pipelines.pages.buckets import (
    RULES,
    USERS,
    bucket_of,
    decoded,
    event,
    events_of,
    impression,
    impressions_of,
    owned,
)

# Pauses of whole minutes, or a millisecond more or less.
close_times = st.builds(lambda minute, past: minute * MINUTE_MS + past, st.integers(0, 4), st.sampled_from([0, 0, 1]))
few_pages = st.lists(impressions_of(close_times), min_size=3, max_size=3).map(
    lambda drawn: [{**row, "page_id": f"p{n}"} for n, rows in enumerate(drawn) for row in rows[:12]]
)


def with_users(impressions, users):
    """Gives some pages several users."""
    return [{**row, "user_id": user} for row, user in zip(owned(impressions), users, strict=False)]


@settings(max_examples=120, deadline=None)
@given(
    few_pages,
    events_of(close_times),
    st.lists(st.sampled_from(USERS), min_size=40, max_size=40),
    st.booleans(),
    st.sampled_from([0, 1, 1.5, 2]),
    st.booleans(),
    st.sampled_from([None, 0.02]),
    st.randoms(use_true_random=False),
)
def test_pages_equal_the_slow_reference(impressions, events, users, several, gap, split, hours, random):
    impressions = with_users(impressions, users) if several else owned(impressions)
    rules = dataclasses.replace(RULES, page_gap_minutes=gap, split_reused_pages=split, attribution_hours=hours)
    pages_of = {(row["page_id"], row["user_id"]) for row in impressions}
    shared = [page_id for page_id, users in Counter(page for page, _ in pages_of).items() if users > 1]
    expected, _, orphans = reference_pages(impressions, events, rules)
    bucket = bucket_of(impressions, events, rules, shared_pages=shared)
    assert decoded(bucket) == {page_id: comparable(page) for page_id, page in expected.items()}

    # Every row is on a page, rejected with a reason, or counted as the repetition of another.
    used = sum(len(rows) for rows in reference_uses([{"query": "", **r} for r in impressions], rules).values())
    reasons = Counter(row.reason for row in bucket.rejected if row.table == "impressions")
    assert reasons.total() == len(impressions) - used
    assert reasons.keys() <= (set() if split else {SEVERAL_USERS, AFTER_A_PAUSE})
    assert len(bucket.rejected) == reasons.total() + len(orphans)
    counters = bucket.counters
    repeated = counters["impressions.duplicate"] + counters["impressions.conflicting"]
    assert len(bucket.candidates["item"]) == used - repeated
    assert counters["pages.named"] == len(pages_of)
    assert counters["pages.of_several_users"] == sum(page_id in shared for page_id, _ in pages_of)
    made = sum("@" in page_id for page_id in bucket.page_id)
    assert counters["pages.split"] == made
    random.shuffle(impressions)
    again = bucket_of(impressions, events, rules, shared_pages=shared)
    assert (again.counters, sorted(again.rejected)) == (counters, sorted(bucket.rejected))
    assert (again.page_id, again.reused) == (bucket.page_id, bucket.reused)


def daily_home_page(days=3):
    """A page ID that a user has every morning, with a click on each first item."""
    day = 24 * 60 * MINUTE_MS
    return [
        impression("home", item, n * day + position, clicked=position == 0, position=position)
        for n in range(days)
        for position, item in enumerate(("i0", "i1"))
    ]


def test_a_page_id_of_every_day_is_rejected_and_named():
    bucket = bucket_of(daily_home_page(), [], PageRules(split_times=(0, 0)))
    assert bucket.page_id == []
    assert [row.reason for row in bucket.rejected] == [AFTER_A_PAUSE] * 6
    assert bucket.reused == {AFTER_A_PAUSE: Example("home", "u0", 0, 2 * 24 * 60 * MINUTE_MS + 1)}
    assert bucket.counts.counts.sum() == 0


def test_each_use_of_a_page_id_has_its_own_moment_labels_and_history():
    rules = PageRules(split_times=(0, 0), split_reused_pages=True)
    rows = [*daily_home_page(), impression("alone", "i4", 5)]
    bucket = bucket_of(rows, [event("pay", "i1", 10)], rules)
    day = 24 * 60 * MINUTE_MS
    pages = decoded(bucket)
    assert pages.keys() == {"alone", *(f"home@u0@{n * day}" for n in range(3))}
    for n in range(3):
        page = pages[f"home@u0@{n * day}"]
        assert page["time"] == n * day
        assert [candidate["clicked"] for candidate in page["candidates"]] == [True, False]
        assert page["click"] == [(earlier * day, "i0") for earlier in reversed(range(n))]
        assert page["pay"] == ([(10, "i1")] if n else [])
    assert bucket.counters["pages.split"] == 3
    # More days before and after do not rename the pages that were there.
    longer = bucket_of([*daily_home_page(5), impression("home", "i2", 9 * day)], [], rules)
    assert set(pages) - {"alone"} < set(longer.page_id)


@pytest.mark.parametrize(("pause", "pages"), [(60 * MINUTE_MS, ["p"]), (60 * MINUTE_MS + 1, [])])
def test_a_page_that_is_scrolled_for_hours_is_one_page(pause, pages):
    rows = [impression("p", "i0", n * pause, position=n) for n in range(9)]
    assert bucket_of(rows, [], PageRules(split_times=(0, 0))).page_id == pages


def test_the_example_is_the_longest_whatever_its_bucket():
    long, longer, equal = Example("b", "u1", 5, 9), Example("c", "u1", 4, 9), Example("a", "u2", 1, 6)
    for order in ([long, longer, equal], [equal, longer, long]):
        assert Example.longest(order) == equal


def test_pages_of_other_buckets_count():
    """Only some of a page's users are in a bucket."""
    rows = [impression("p", "i0", 3), impression("q", "i1", 4)]
    bucket = bucket_of(rows, [], shared_pages=["p"])
    assert bucket.page_id == ["q"]
    split = bucket_of(rows, [], dataclasses.replace(RULES, split_reused_pages=True), shared_pages=["p"])
    assert split.page_id == ["p@u0@3", "q"]
    assert pa.array(split.page_id).null_count == 0
