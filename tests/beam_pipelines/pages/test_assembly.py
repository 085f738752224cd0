import dataclasses
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.format.records import HISTORIES
from beam_pipelines.pages.assembly import build_bucket
from beam_pipelines.pages.item_statistics import DAY_MS, DailyCounts, ItemStatistics, StatisticsPart
from beam_pipelines.pages.rules import PageRules
from tests.beam_pipelines.page_reference import comparable, reference_pages
from tests.beam_pipelines.pages.buckets import (
    CATEGORY,
    EARLY_AND_LATE,
    ITEMS,
    RULES,
    USERS,
    bucket_of,
    decoded,
    event,
    events_of,
    events_strategy,
    far_times,
    impression,
    impressions_of,
    impressions_strategy,
    owned,
    records_of,
    schema_of,
)


@settings(max_examples=150, deadline=None)
@given(impressions_strategy, events_strategy, st.integers(1, 4))
def test_every_page_equals_the_slow_reference(impressions, events, limit):
    impressions = owned(impressions)
    rules = dataclasses.replace(RULES, limits={"click": limit, "pay": limit + 1, "cart": limit})
    expected, _, _ = reference_pages(impressions, events, rules)
    bucket = bucket_of(impressions, events, rules)
    assert decoded(bucket) == {page_id: comparable(page) for page_id, page in expected.items()}
    split = {page_id: sum(page["time"] >= end for end in EARLY_AND_LATE) for page_id, page in expected.items()}
    assert dict(zip(bucket.page_id, bucket.split.tolist(), strict=True)) == split


@settings(max_examples=150, deadline=None)
@given(
    impressions_of(far_times),
    events_of(far_times),
    st.sampled_from([None, 0, 1, 24]),
    st.sampled_from([1, 7, 30]),
    st.booleans(),
)
def test_windows_attribution_categories_and_statistics_equal_the_slow_reference(
    impressions, events, hours, days, same_category
):
    impressions = owned(impressions)
    rules = dataclasses.replace(
        RULES,
        click_days=days,
        pay_days=2 * days,
        attribution_hours=hours,
        same_category_clicks=same_category,
    )
    expected, _, orphans = reference_pages(impressions, events, rules, CATEGORY)
    bucket = bucket_of(impressions, events, rules)
    assert decoded(bucket) == {page_id: comparable(page) for page_id, page in expected.items()}
    assert len(bucket.rejected) == len(orphans)


def test_negatives_are_sampled_at_the_rate_and_positives_are_kept():
    rng = np.random.default_rng(0)
    rows = [
        impression(f"{n:04d}", ITEMS[i], n, bool(rng.random() < 0.2), position=i) for n in range(2000) for i in range(5)
    ]
    whole = bucket_of(rows, [], PageRules(split_times=(0, 1500)))
    sampled = bucket_of(rows, [], PageRules(split_times=(0, 1500), train_negatives=0.25))

    def count(bucket, split, clicked):
        split_of = np.repeat(bucket.split, np.diff(bucket.start))
        return int(((split_of == split) & (bucket.candidates["clicked"] == clicked)).sum())

    assert count(sampled, 1, 1) == count(whole, 1, 1)
    assert count(sampled, 1, 0) == pytest.approx(0.25 * count(whole, 1, 0), rel=0.1)
    assert [count(sampled, 2, c) for c in (0, 1)] == [count(whole, 2, c) for c in (0, 1)]
    dropped = count(whole, 1, 0) - count(sampled, 1, 0)
    assert sampled.counters["train.negatives_sampled_out"] == dropped
    assert sampled.counters["train.pages_sampled_out"] == len(whole.page_id) - len(sampled.page_id) > 0
    # Histories and statistics know all that was shown and clicked, whatever was sampled.
    assert sampled.counts.counts.sum() == whole.counts.counts.sum()
    pages, expected = decoded(sampled), decoded(whole)
    assert all(page["click"] == expected[name]["click"] for name, page in pages.items())


def test_long_pages_are_cut_and_what_is_cut_still_counts():
    rows = [impression("p", item, 5, clicked=item == "i4", position=i) for i, item in enumerate(ITEMS)]
    rows += [impression("later", "i4", DAY_MS, clicked=True)]
    bucket = bucket_of(rows, [], PageRules(split_times=(0, 0), max_candidates=3))
    pages = decoded(bucket)
    assert [candidate["item_id"] for candidate in pages["p"]["candidates"]] == ["i0", "i1", "i2"]
    assert bucket.counters["pages.candidates_cut"] == 2
    assert pages["later"]["click"] == [(5, "i4")]
    (candidate,) = pages["later"]["candidates"]
    assert (candidate["impressions_7d"], candidate["clicks_7d"]) == (1, 1)


@settings(max_examples=75, deadline=None)
@given(impressions_of(far_times), events_of(far_times), st.data())
def test_what_a_page_says_beside_its_labels_depends_neither_on_them_nor_on_what_comes_later(impressions, events, data):
    time_of = {row["page_id"]: row["timestamp"] for row in impressions}
    rows = {(row["page_id"], row["item_id"]): row for row in owned(impressions)}.values()
    rows = [{**row, "timestamp": time_of[row["page_id"]]} for row in rows]
    if not rows:
        return
    chosen = data.draw(st.sampled_from(sorted(time_of)))
    moment = time_of[chosen]
    other = {"dwell_seconds": 9.0, "converted": True}
    changed = [{**r, **other, "clicked": not r["clicked"]} if r["timestamp"] >= moment else r for r in rows]
    earlier = [e for e in events if e["timestamp"] < moment]
    before, after = (decoded(bucket_of(*logs))[chosen] for logs in ((rows, events), (changed, earlier)))
    for candidate in before["candidates"] + after["candidates"]:
        for label in ("clicked", "converted", "dwell_seconds"):
            del candidate[label]
    assert before == after


@settings(max_examples=50, deadline=None)
@given(impressions_strategy, events_strategy, st.randoms(use_true_random=False))
def test_records_do_not_depend_on_the_order_of_rows(impressions, events, random):
    impressions = owned(impressions)
    rules = dataclasses.replace(RULES, attribution_hours=0.000001)
    first = bucket_of(impressions, events, rules)
    random.shuffle(impressions)
    random.shuffle(events)
    second = bucket_of(impressions, events, rules)
    assert records_of(first) == records_of(second)
    assert first.counters == second.counters
    assert sorted(first.rejected) == sorted(second.rejected)


def test_history_is_strictly_before_the_page_and_without_its_own_clicks():
    pages = decoded(
        bucket_of(
            [
                impression("before", "i0", 4, clicked=True),
                impression("same moment", "i1", 5, clicked=True),
                impression("page", "i2", 5, clicked=True),
                impression("page", "i3", 9, clicked=True, position=1),  # a later row of the page that began at 5
                impression("after", "i4", 6, clicked=True),
            ],
            [event("click", "i3", 5), event("pay", "i4", 4), event("pay", "i4", 5)],
        )
    )
    assert pages["page"]["click"] == [(4, "i0")]
    assert pages["page"]["pay"] == [(4, "i4")]
    assert pages["after"]["click"] == [(5, "i1"), (5, "i2"), (5, "i3"), (4, "i0")]


def test_cart_is_what_is_in_it_at_that_moment():
    events = [event("cart", "i0", 1), event("cart", "i1", 2), event("cart_remove", "i0", 3), event("cart", "i0", 5)]
    events += [event("cart", "i1", 7), event("cart", "i2", 8), event("cart_remove", "i2", 8)]
    pages = [impression(f"at {t}", "i0", t) for t in (1, 3, 4, 6, 9)]
    carts = {name: page["cart"] for name, page in decoded(bucket_of(pages, events)).items()}
    assert carts == {
        "at 1": [],
        "at 3": [(2, "i1"), (1, "i0")],
        "at 4": [(2, "i1")],
        "at 6": [(5, "i0"), (2, "i1")],
        "at 9": [(7, "i1"), (5, "i0")],
    }


def test_the_query_is_the_first_in_the_order_of_candidates():
    rows = [impression("p", "i1", 3, position=1, query="shirt"), impression("p", "i0", 3, position=2, query="socks")]
    rows += [impression("p", "i4", 3, position=0, query=""), impression("p", "i2", 3, position=1, query="röcke")]
    assert decoded(bucket_of(rows, []))["p"]["query"] == "shirt"


def test_duplicates_count_once_and_a_click_wins():
    rows = [impression("p", "i0", 3, position=2), impression("p", "i0", 3, position=2)]
    rows += [impression("p", "i1", 3, position=1), impression("p", "i1", 3, clicked=True, position=3)]
    bucket = bucket_of(rows, [event("pay", "i0", 1)] * 3)
    page = decoded(bucket)["p"]
    assert [(c["item_id"], c["position"], c["clicked"]) for c in page["candidates"]] == [
        ("i0", 2, False),
        ("i1", 3, True),
    ]
    assert bucket.counters["impressions.duplicate"] == 1
    assert bucket.counters["impressions.conflicting"] == 1
    assert bucket.counters["events.duplicate"] == 2
    assert page["pay"] == [(1, "i0")]


def test_limits_of_the_schema_keep_the_newest():
    steps = 1100
    events = [event(kind, ITEMS[0], t) for kind in ("click", "pay") for t in range(steps)]
    bucket = bucket_of([impression("p", "i0", steps)], events)
    page = decoded(bucket)["p"]
    assert page["click"] == page["pay"] == [(t, "i0") for t in range(steps - 1, steps - 1001, -1)]
    assert bucket.counters["history.click.cut_pages"] == bucket.counters["history.pay.cut_pages"] == 1


def test_cart_limit_of_the_schema_keeps_the_newest():
    ids = [f"{n:03d}" for n in range(250)]
    events = [event("cart", item, n) for n, item in enumerate(ids)]
    page = decoded(bucket_of([impression("p", "000", 300)], events, items=ids), ids)["p"]
    assert page["cart"] == [(n, ids[n]) for n in range(249, 249 - HISTORIES["cart"], -1)]


def test_pages_of_several_users_are_rejected_row_by_row():
    rows = [impression("shared", "i0", 3), impression("shared", "i1", 3, user="u1", clicked=True)]
    rows += [impression("good", "i0", 4), impression("good", "i1", 9, user="u0")]
    bucket = bucket_of(rows, [], shared_pages=["shared", "elsewhere"])
    assert bucket.page_id == ["good"]
    assert [(r.table, r.reason) for r in bucket.rejected] == [("impressions", "page of several users")] * 2
    assert len({r.row_hash for r in bucket.rejected}) == 2


def test_pages_of_several_splits_are_rejected():
    rows = [impression("p", "i0", 3, split="train"), impression("p", "i1", 3, split="test")]
    rows += [impression("q", "i0", 9, split="pretrain")]
    bucket = bucket_of(rows, [], PageRules(split_times=None))
    assert bucket.page_id == ["q"]
    assert bucket.split.tolist() == [0]
    assert {r.reason for r in bucket.rejected} == {"page in several splits"}


def test_order_in_a_shard_mixes_users_and_times():
    rows = [impression(f"{n:04d}", "i0", n, user=USERS[n // 100]) for n in range(300)]
    pages = bucket_of(rows, [], PageRules(split_times=(1000, 1000))).pages_of(0)
    assert sorted(pages.tolist()) == list(range(300))
    assert abs(np.corrcoef(pages, np.arange(300))[0, 1]) < 0.2


@pytest.mark.parametrize("kind", ["click", "cart"])
def test_time_is_linear_in_the_size_of_one_user(kind):
    def seconds(pages):
        n = 10 * pages
        rng = np.random.default_rng(0)
        table = {
            "page_id": np.repeat([f"{i:08d}" for i in range(pages)], 10),
            "user_id": np.zeros(n, np.int64),
            "item_id": rng.integers(0, len(ITEMS), n),
            "timestamp": np.repeat(np.arange(pages), 10),
            "position": np.tile(np.arange(10), pages),
            "clicked": rng.random(n) < 0.3,
            "converted": [False] * n,
            "dwell_seconds": np.zeros(n, np.float32),
            "query": [""] * n,
        }
        events = {
            "user_id": np.zeros(n, np.int64),
            "item_id": rng.integers(0, len(ITEMS), n),
            "timestamp": rng.permutation(n) // 10,
            "event": [kind] * n,
        }
        tables = pa.table(table, schema_of("impressions")), pa.table(events, schema_of("events"))
        start = time.process_time()
        bucket = build_bucket(
            *tables,
            PageRules(split_times=(0, 0), limits=dict.fromkeys(HISTORIES, 5)),
            item_ids=pa.array(ITEMS),
            user_ids=pa.array(USERS),
            item_category=np.zeros(len(ITEMS), np.int64),
        ).with_statistics(ItemStatistics([StatisticsPart.of(DailyCounts.sum([]))]))
        assert sum(len(block) for block in bucket.encode(bucket.pages_of(2))) == pages
        return time.process_time() - start

    seconds(100)
    assert seconds(8000) < 20 * seconds(1000) + 0.5
