import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.pages.item_statistics import ItemStatistics, StatisticsPart
from beam_pipelines.pages.pretraining_view import pretraining_view
from beam_pipelines.pages.rules import PretrainingRules
from tests.beam_pipelines.page_reference import comparable, decode_page, reference_page_view, reference_pages
from tests.beam_pipelines.pages.buckets import (
    EARLY_AND_LATE,
    ITEMS,
    RULES,
    USERS,
    bucket_of,
    events_strategy,
    impressions_strategy,
    owned,
)


@settings(max_examples=150, deadline=None)
@given(impressions_strategy, events_strategy, st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 3), st.integers(1, 3))
def test_the_view_for_pre_training_equals_the_slow_reference(impressions, events, rate, candidates, clicks):
    impressions = owned(impressions)
    rules = PretrainingRules(negatives=rate, candidates=candidates, clicks=clicks)
    bucket = bucket_of(impressions, events)
    expected, steps, _ = reference_pages(impressions, events, RULES)
    expected = {page_id: page for page_id, page in expected.items() if page["time"] < EARLY_AND_LATE[0]}
    eligible = ("i0", "i1", "i4")
    kept = bucket.sample_negatives(rate)
    place = {page_id: start for page_id, start in zip(bucket.page_id, bucket.start.tolist(), strict=False)}
    view = view_of(bucket, rules, eligible)
    found = dict(decode_page(record, ITEMS, USERS) for record in view)
    wanted = reference_page_view(expected, steps, rules, eligible, 183, lambda page, i: bool(kept[place[page] + i]))
    assert found == {page_id: comparable(page) for page_id, page in wanted.items()}


def view_of(bucket, rules, eligible=ITEMS):
    mask = np.array([item in eligible for item in ITEMS])
    view = pretraining_view(bucket, rules, RULES.reach("click"), mask, pa.array(USERS))
    view = view.with_statistics(ItemStatistics([StatisticsPart.of(part) for part in bucket.counts.split(2)]))
    return [record for block in view.encode(view.pages_of(0)) for record in block.to_pylist()]


@settings(max_examples=100, deadline=None)
@given(impressions_strategy, events_strategy, st.integers(1, 3), st.integers(1, 5))
def test_the_causal_view_has_every_click_once_as_a_target_and_earlier_ones_as_its_context(
    impressions, events, clicks, candidates
):
    impressions = owned(impressions)
    bucket = bucket_of(impressions, events)
    _, steps, _ = reference_pages(impressions, events, RULES)
    end = 15
    rules = PretrainingRules(kind="causal", clicks=clicks, candidates=candidates, end=end)
    targets = []
    pages = [decode_page(record, ITEMS, USERS) for record in view_of(bucket, rules)]
    assert len({page_id for page_id, _ in pages}) == len(pages)
    for page_id, page in pages:
        assert page_id.split("+")[0] == f"{page['user']}@{page['time']}"
        assert len(page["candidates"]) <= candidates
        targets += [(page["user"], page["time"], c["item_id"]) for c in page["candidates"]]
        assert all(c["clicked"] for c in page["candidates"])
        earlier = sorted(((t, i) for u, t, i in steps if u == page["user"] and t < page["time"]), reverse=True)
        assert [t for t, _ in page["click"]] == [t for t, _ in earlier[:clicks]]
        assert set(page["click"]) <= set(earlier)
    first = {user: min((t for u, t, _ in steps if u == user), default=0) for user in USERS}
    assert sorted(targets) == sorted(step for step in steps if first[step[0]] < step[1] < end)
