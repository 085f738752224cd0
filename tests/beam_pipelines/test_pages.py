import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.logs import Table
from beam_pipelines.manifest import SPLITS
from beam_pipelines.pages import build_bucket
from beam_pipelines.records import HISTORIES
from tests.beam_pipelines.page_reference import IMPRESSION_DEFAULTS, comparable, decode_page, reference_pages

ITEMS = [f"i{n}" for n in range(5)]
USERS = ["u0", "u1", "u2"]
IMPRESSIONS = Table("impressions", (), {}).schema()
EVENTS = Table("events", (), {}).schema()
EARLY_AND_LATE = (6, 12)

# Few distinct values, so that ties, duplicates and conflicts are the rule.
impressions_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "page_id": st.sampled_from(["p0", "p1", "p2", "p3", "p4"]),
            "item_id": st.sampled_from(ITEMS),
            "timestamp": st.integers(0, 20),
            "position": st.integers(0, 3),
            "clicked": st.booleans(),
        },
        optional={
            "converted": st.booleans(),
            "dwell_seconds": st.sampled_from([0.0, 1.5]),
            "query": st.sampled_from(["", "röcke", "shirt", "socks"]),
        },
    ),
    max_size=40,
)
events_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(USERS),
            "item_id": st.sampled_from(ITEMS),
            "timestamp": st.integers(0, 20),
            "event": st.sampled_from(["click", "pay", "cart", "cart", "cart_remove"]),
        }
    ),
    max_size=40,
)


def owned(impressions):
    """Gives every page one user."""
    return [{**row, "user_id": USERS[int(row["page_id"][1:]) % len(USERS)]} for row in impressions]


def bucket_of(impressions, events, **options):
    impressions = [{**IMPRESSION_DEFAULTS, **row} for row in impressions]
    options.setdefault("split_times", EARLY_AND_LATE)
    schema = IMPRESSIONS if options["split_times"] else IMPRESSIONS.append(pa.field("split", pa.string()))
    return build_bucket(
        pa.Table.from_pylist(impressions, schema),
        pa.Table.from_pylist(events, EVENTS),
        item_ids=pa.array(ITEMS),
        user_ids=pa.array(USERS),
        **options,
    )


def records_of(bucket):
    return {split: list(bucket.encode(bucket.pages_of(i))) for i, split in enumerate(SPLITS)}


def decoded(bucket):
    return dict(decode_page(r, ITEMS, USERS) for records in records_of(bucket).values() for r in records)


def impression(page, item, timestamp, clicked=False, user="u0", position=0, **more):
    row = {"page_id": page, "user_id": user, "item_id": item, "timestamp": timestamp}
    return {**row, "position": position, "clicked": clicked, **more}


def event(kind, item, timestamp, user="u0"):
    return {"user_id": user, "item_id": item, "timestamp": timestamp, "event": kind}


@settings(max_examples=150, deadline=None)
@given(impressions_strategy, events_strategy, st.integers(1, 4))
def test_every_page_equals_the_slow_reference(impressions, events, limit):
    impressions = owned(impressions)
    limits = {"click": limit, "pay": limit + 1, "cart": limit}
    expected = reference_pages(impressions, events, limits)
    bucket = bucket_of(impressions, events, limits=limits)
    assert decoded(bucket) == {page_id: comparable(page) for page_id, page in expected.items()}
    split = {page_id: sum(page["time"] >= end for end in EARLY_AND_LATE) for page_id, page in expected.items()}
    assert dict(zip(bucket.page_id, bucket.split.tolist(), strict=True)) == split


@settings(max_examples=50, deadline=None)
@given(impressions_strategy, events_strategy, st.randoms(use_true_random=False))
def test_records_do_not_depend_on_the_order_of_rows(impressions, events, random):
    impressions = owned(impressions)
    first = bucket_of(impressions, events)
    random.shuffle(impressions)
    random.shuffle(events)
    second = bucket_of(impressions, events)
    assert records_of(first) == records_of(second)
    assert first.counters == second.counters


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
    bucket = build_bucket(
        pa.Table.from_pylist([{**IMPRESSION_DEFAULTS, **impression("p", "000", 300)}], IMPRESSIONS),
        pa.Table.from_pylist([event("cart", item, n) for n, item in enumerate(ids)], EVENTS),
        item_ids=pa.array(ids),
        user_ids=pa.array(USERS),
        split_times=EARLY_AND_LATE,
    )
    (record,) = bucket.encode(bucket.pages_of(2))
    page = decode_page(record, ids, USERS)[1]
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
    bucket = bucket_of(rows, [], split_times=None)
    assert bucket.page_id == ["q"]
    assert bucket.split.tolist() == [0]
    assert {r.reason for r in bucket.rejected} == {"page in several splits"}


def test_order_in_a_shard_mixes_users_and_times():
    rows = [impression(f"{n:04d}", "i0", n, user=USERS[n // 100]) for n in range(300)]
    pages = bucket_of(rows, [], split_times=(1000, 1000)).pages_of(0)
    assert sorted(pages) == list(range(300))
    assert abs(np.corrcoef(pages, np.arange(300))[0, 1]) < 0.2


@pytest.mark.parametrize("kind", ["click", "cart"])
def test_time_is_linear_in_the_size_of_one_user(kind):
    def seconds(pages):
        n = 10 * pages
        rng = np.random.default_rng(0)
        table = {
            "page_id": np.repeat([f"{i:08d}" for i in range(pages)], 10),
            "user_id": ["u0"] * n,
            "item_id": rng.choice(ITEMS, n),
            "timestamp": np.repeat(np.arange(pages), 10),
            "position": np.tile(np.arange(10), pages),
            "clicked": rng.random(n) < 0.3,
            "converted": [False] * n,
            "dwell_seconds": np.zeros(n, np.float32),
            "query": [""] * n,
        }
        events = {
            "user_id": ["u0"] * n,
            "item_id": rng.choice(ITEMS, n),
            "timestamp": rng.permutation(n) // 10,
            "event": [kind] * n,
        }
        tables = pa.table(table, IMPRESSIONS), pa.table(events, EVENTS)
        start = time.process_time()
        bucket = build_bucket(
            *tables,
            item_ids=pa.array(ITEMS),
            user_ids=pa.array(USERS),
            split_times=(0, 0),
            limits=dict.fromkeys(HISTORIES, 5),
        )
        assert sum(1 for _ in bucket.encode(bucket.pages_of(2))) == pages
        return time.process_time() - start

    seconds(100)
    assert seconds(8000) < 20 * seconds(1000) + 0.5
