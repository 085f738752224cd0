"""The pages of a bucket as an encoder learns on them."""

import dataclasses
from collections import Counter

import numpy as np
import pyarrow as pa

from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.pages.bucket import Bucket, hash_ids
from beam_pipelines.pages.histories import History, Steps, starts_group
from beam_pipelines.pages.rules import PretrainingRules

_PRETRAIN = SPLITS.index("pretrain")


def pretraining_view(
    bucket: Bucket, rules: PretrainingRules, reach: int, eligible: np.ndarray, user_ids: pa.Array
) -> Bucket:
    """The pages that an encoder learns on: few candidates, few clicks, all of them with something to see.

    `page`: of each pretrain page the eligible candidates, the clicked ones first, the order kept otherwise, and
    the latest eligible clicks. Pages without a click before them or a clicked candidate are left out.

    `causal`: for each moment at which a user clicked, the clicks of that moment as clicked candidates (on several
    pages if there are many) and the latest strictly earlier ones as the history, so that each click that others
    precede is a target exactly once.

    Args:
        bucket: all pages of its users.
        rules: what to keep.
        reach: how far back histories reach, in milliseconds.
        eligible: bool by item row.
        user_ids: by user row.

    Returns:
        Pages in split 0, without statistics; `counters` says what was left out.

    Reference: COURIER, section 4.2.1 and appendix C.
    """
    clicks = bucket.clicks.where(eligible[bucket.clicks.item])
    counters: Counter[str] = Counter()
    if rules.kind == "page":
        view = _trim(bucket, rules, eligible, counters)
    else:
        view = _next_clicks(bucket, clicks.where(clicks.time < rules.end), rules.candidates, user_ids)
    start, stop, _ = clicks.before(view.user, view.time, reach, rules.clicks)
    positives = np.concatenate([[0], np.cumsum(view.candidates["clicked"])])[view.start]
    without_history = stop == start
    without_positive = ~without_history & (np.diff(positives) == 0)
    counters["pretraining.pages"] = len(view.page_id)
    counters["pretraining.without_history"] = int(without_history.sum())
    counters["pretraining.without_positive"] = int(without_positive.sum())
    history = History(clicks.item, clicks.time, start, stop)
    view = dataclasses.replace(view, histories=view.histories | {"click": history}, counters=counters)
    return view.select_pages(np.flatnonzero(~(without_history | without_positive)))


def _trim(bucket: Bucket, rules: PretrainingRules, eligible: np.ndarray, counters: Counter[str]) -> Bucket:
    pages = bucket.select_pages(np.flatnonzero(bucket.split == _PRETRAIN))
    visible = eligible[pages.candidates["item"]]
    counters["pretraining.ineligible_candidates"] = int((~visible).sum())
    kept = visible & pages.sample_negatives(rules.negatives)
    counters["pretraining.negatives_sampled_out"] = int((visible & ~kept).sum())
    page = np.repeat(np.arange(len(pages.page_id)), np.diff(pages.start))
    order = np.flatnonzero(kept)
    order = order[np.lexsort((-pages.candidates["clicked"][order], page[order]))]
    start = np.searchsorted(page[order], np.arange(len(pages.page_id) + 1))
    rank = np.arange(len(order)) - start[page[order]]
    counters["pretraining.candidates_cut"] = int((rank >= rules.candidates).sum())
    order = order[rank < rules.candidates]
    none = History.empty(len(pages.page_id))
    return dataclasses.replace(
        pages,
        start=np.searchsorted(page[order], np.arange(len(pages.page_id) + 1)),
        candidates={name: values[order] for name, values in pages.candidates.items()},
        histories={name: none for name in pages.histories},
    )


def _next_clicks(bucket: Bucket, targets: Steps, candidates: int, user_ids: pa.Array) -> Bucket:
    moment = np.flatnonzero(starts_group(targets.owner, targets.time))
    rank = np.arange(len(targets.item))
    rank -= np.repeat(moment, np.diff(moment, append=len(targets.item)))
    first = np.flatnonzero(rank % candidates == 0)  # a moment of many clicks takes several pages
    user, time = targets.owner[first], targets.time[first]
    names = zip(user_ids.take(pa.array(user)).to_pylist(), time.tolist(), rank[first].tolist(), strict=True)
    page_id = [f"{name}@{moment}+{start}" if start else f"{name}@{moment}" for name, moment, start in names]
    start = np.append(first, len(targets.item))
    zeros = np.zeros(len(targets.item), np.int64)
    return dataclasses.replace(
        bucket,
        page_id=page_id,
        page_hash=hash_ids(page_id),
        user=user,
        time=time,
        query=[""] * len(page_id),
        split=np.full(len(page_id), _PRETRAIN),
        start=start,
        candidates={
            "item": targets.item,
            "position": rank % candidates,
            "clicked": zeros + 1,
            "converted": zeros,
            "dwell": zeros.astype(np.float32),
        },
        histories={name: History.empty(len(page_id)) for name in bucket.histories},
    )
