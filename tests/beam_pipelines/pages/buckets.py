"""Buckets of pages from a few rows, and strategies that draw such rows."""

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.logs.contract import Table
from beam_pipelines.pages.assembly import build_bucket
from beam_pipelines.pages.item_statistics import DAY_MS, ItemStatistics, StatisticsPart
from beam_pipelines.pages.rules import HOUR_MS, PageRules
from tests.beam_pipelines.page_reference import IMPRESSION_DEFAULTS, decode_page

ITEMS = [f"i{n}" for n in range(5)]
USERS = ["u0", "u1", "u2"]
CATEGORY = {"i0": "b", "i1": "a", "i2": "b", "i3": "", "i4": "a"}
EARLY_AND_LATE = (6, 12)
# Whatever is drawn under one page ID is one page: pauses are a subject of their own.
RULES = PageRules(split_times=EARLY_AND_LATE, page_gap_minutes=1e6)

# Few distinct values, so that ties, duplicates and conflicts are the rule.
small_times = st.integers(0, 20)
# Around the turns of days and attribution windows, over a bit more than a month.
far_times = st.builds(
    lambda day, hour, past: day * DAY_MS + hour * HOUR_MS + past,
    st.sampled_from([0, 1, 6, 7, 8, 29, 30, 31, 37]),
    st.sampled_from([0, 2, 23]),
    st.integers(-1, 1),
).map(lambda moment: max(moment, 0))


def impressions_of(times):
    return st.lists(
        st.fixed_dictionaries(
            {
                "page_id": st.sampled_from(["p0", "p1", "p2", "p3", "p4"]),
                "item_id": st.sampled_from(ITEMS),
                "timestamp": times,
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


def events_of(times):
    return st.lists(
        st.fixed_dictionaries(
            {
                "user_id": st.sampled_from(USERS),
                "item_id": st.sampled_from(ITEMS),
                "timestamp": times,
                "event": st.sampled_from(["click", "pay", "cart", "cart", "cart_remove"]),
            }
        ),
        max_size=40,
    )


impressions_strategy, events_strategy = impressions_of(small_times), events_of(small_times)


def owned(impressions):
    """Gives every page one user."""
    return [{**row, "user_id": USERS[int(row["page_id"][1:]) % len(USERS)]} for row in impressions]


def schema_of(table, *more):
    schema = pa.schema([*Table(table, (), {}).schema(), *more])
    for name in ("item_id", "user_id"):
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.int64()))
    return schema


def numbered(rows, items=ITEMS):
    return [{**row, "item_id": items.index(row["item_id"]), "user_id": USERS.index(row["user_id"])} for row in rows]


def bucket_of(impressions, events, rules=RULES, items=ITEMS, **options):
    impressions = numbered([{**IMPRESSION_DEFAULTS, **row} for row in impressions], items)
    more = [] if rules.split_times else [pa.field("split", pa.string())]
    categories = sorted(set(CATEGORY.values()))
    return build_bucket(
        pa.Table.from_pylist(impressions, schema_of("impressions", *more)),
        pa.Table.from_pylist(numbered(events, items), schema_of("events")),
        rules,
        item_ids=pa.array(items),
        user_ids=pa.array(USERS),
        item_category=np.array([categories.index(CATEGORY.get(item, "")) for item in items]),
        **options,
    )


def records_of(bucket):
    bucket = bucket.with_statistics(ItemStatistics([StatisticsPart.of(part) for part in bucket.counts.split(2)]))
    return {
        split: [record for block in bucket.encode(bucket.pages_of(i)) for record in block.to_pylist()]
        for i, split in enumerate(SPLITS)
    }


def decoded(bucket, items=ITEMS):
    return dict(decode_page(r, items, USERS) for records in records_of(bucket).values() for r in records)


def impression(page, item, timestamp, clicked=False, user="u0", position=0, **more):
    row = {"page_id": page, "user_id": user, "item_id": item, "timestamp": timestamp}
    return {**row, "position": position, "clicked": clicked, **more}


def event(kind, item, timestamp, user="u0"):
    return {"user_id": user, "item_id": item, "timestamp": timestamp, "event": kind}
