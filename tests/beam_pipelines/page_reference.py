"""What a page is, written down slowly and obviously: plain Python over lists of rows, one page at a time."""

import numpy as np

from beam_pipelines.format.records import HISTORIES
from beam_pipelines.pages.item_statistics import DAY_MS
from beam_pipelines.pages.rules import HOUR_MS, MINUTE_MS, PageRules

IMPRESSION_DEFAULTS = {"clicked": False, "converted": False, "dwell_seconds": 0.0, "query": ""}
STATISTICS = [f"{name}_{days}d" for days in (7, 30) for name in ("impressions", "clicks", "ctr", "pays")]


def reference_pages(impressions, events, rules=None, category=None, with_statistics=True):
    """Page ID to its content, with string IDs; the click steps; the click events that are rejected.

    `category`: item to its category, for rules that need it. Without statistics some of the users will do.
    """
    rules = rules or PageRules(split_times=(0, 0))
    impressions = [{**IMPRESSION_DEFAULTS, **row} for row in impressions]
    pages = {page_id: _page(page_id, rows) for page_id, rows in reference_uses(impressions, rules).items()}
    clicks = {_step(e) for e in events if e["event"] == "click"}
    rejected = []
    if rules.attribution_hours is not None:
        rejected = [click for click in clicks if not _attribute(click, pages, rules)]
        clicks -= set(rejected)
    pays = {_step(e) for e in events if e["event"] == "pay"}
    for page in pages.values():
        for candidate in page["candidates"]:
            if candidate["clicked"] and "click_times" not in candidate:
                clicks.add((page["user"], page["time"], candidate["item_id"]))
    for page in pages.values():
        wanted = clicks
        if rules.same_category_clicks:
            of_page = _commonest([category[c["item_id"]] for c in page["candidates"]])
            wanted = [click for click in clicks if category[click[2]] == of_page]
        page["click"] = _newest(page, wanted, rules.click_days)[: rules.limits["click"]]
        page["pay"] = _newest(page, pays, rules.pay_days)[: rules.limits["pay"]]
        page["cart"] = _cart(page, events)[: rules.limits["cart"]]
        for candidate in page["candidates"] if with_statistics else ():
            candidate.update(_statistics(candidate["item_id"], page["time"] // DAY_MS, pages, pays))
    return pages, clicks, rejected


def reference_uses(impressions, rules):
    """ID of every page to its rows: what is left of page IDs that are used again, or each use of them."""
    uses = {}
    for row in sorted(impressions, key=lambda row: (row["page_id"], row["user_id"], row["timestamp"])):
        of_page = uses.setdefault(row["page_id"], [])
        last = of_page[-1][-1] if of_page else None
        is_next = (
            last is not None
            and last["user_id"] == row["user_id"]
            and row["timestamp"] - last["timestamp"] <= rules.page_gap_minutes * MINUTE_MS
        )
        if is_next:
            of_page[-1].append(row)
        else:
            of_page.append([row])
    pages = {}
    for page_id, of_page in uses.items():
        if len(of_page) == 1:
            pages[page_id] = of_page[0]
        elif rules.split_reused_pages:
            pages |= {f"{page_id}@{rows[0]['user_id']}@{rows[0]['timestamp']}": rows for rows in of_page}
    return pages


def _page(page_id, rows):
    candidates = []
    for item in {row["item_id"] for row in rows}:
        same = [row for row in rows if row["item_id"] == item]
        same.sort(
            key=lambda row: (
                not row["clicked"],
                not row["converted"],
                -row["dwell_seconds"],
                row["position"],
                row["timestamp"],
                row["query"],
            )
        )
        candidates.append({**same[0], "shown": min(row["timestamp"] for row in same)})
    candidates.sort(key=lambda row: (row["position"], row["item_id"]))
    queries = [row["query"] for row in candidates if row["query"]]
    return {
        "page_id": page_id,
        "user": rows[0]["user_id"],
        "time": min(row["timestamp"] for row in rows),
        "query": queries[0] if queries else "",
        "candidates": candidates,
    }


def _step(event):
    return event["user_id"], event["timestamp"], event["item_id"]


def _attribute(click, pages, rules):
    """Marks the candidate that a click belongs to; False if there is none."""
    user, time, item = click
    shown = [
        (candidate["shown"], page["page_id"], candidate)
        for page in pages.values()
        for candidate in page["candidates"]
        if page["user"] == user and candidate["item_id"] == item and candidate["shown"] <= time
    ]
    if not shown:
        return False
    when, _, candidate = max(shown, key=lambda found: found[:2])
    if time - when <= rules.attribution_hours * HOUR_MS:
        candidate["clicked"] = True
        candidate.setdefault("click_times", []).append(time)
    return True


def _commonest(categories):
    return min(set(categories), key=lambda category: (-categories.count(category), category))


def _newest(page, steps, days):
    reach = days * DAY_MS
    before = {(t, item) for user, t, item in steps if user == page["user"] and page["time"] - reach <= t < page["time"]}
    return sorted(before, key=lambda step: (-step[0], step[1]))


def _cart(page, events):
    cart = {}
    mine = [e for e in events if e["user_id"] == page["user"] and e["timestamp"] < page["time"]]
    for event in sorted(mine, key=lambda e: (e["timestamp"], e["event"] == "cart_remove")):
        if event["event"] == "cart":
            cart[event["item_id"]] = event["timestamp"]
        elif event["event"] == "cart_remove":
            cart.pop(event["item_id"], None)
    return sorted(((time, item) for item, time in cart.items()), key=lambda step: (-step[0], step[1]))


def _statistics(item, today, pages, pays):
    """Statistics of an item over the days before `today`."""
    shown = [(c["item_id"], page["time"] // DAY_MS) for page in pages.values() for c in page["candidates"]]
    clicked = [
        (c["item_id"], min(c.get("click_times", [page["time"]])) // DAY_MS)
        for page in pages.values()
        for c in page["candidates"]
        if c["clicked"]
    ]
    paid = [(paid_item, time // DAY_MS) for _, time, paid_item in pays]
    found = {}
    for days in (7, 30):
        shown_now, clicked_now, paid_now = (
            [row for row, day in rows if today - days <= day < today] for rows in (shown, clicked, paid)
        )
        average = len(clicked_now) / len(shown_now) if shown_now else 0.0
        impressions, clicks = shown_now.count(item), clicked_now.count(item)
        found[f"impressions_{days}d"] = impressions
        found[f"clicks_{days}d"] = clicks
        found[f"ctr_{days}d"] = float(np.float32((clicks + 20 * average) / (impressions + 20)))
        found[f"pays_{days}d"] = paid_now.count(item)
    return found


def reference_page_view(pages, clicks, rules, eligible, days, sampled):
    """The pre-training view of pages: those that are left, with `candidates` and `click`.

    `sampled`: (page ID, place on the page) to whether an unclicked candidate is kept.
    """
    clicks = [click for click in clicks if click[2] in eligible]
    view = {}
    for page_id, page in pages.items():
        kept = [
            candidate
            for place, candidate in enumerate(page["candidates"])
            if candidate["item_id"] in eligible and (candidate["clicked"] or sampled(page_id, place))
        ]
        kept = [c for c in kept if c["clicked"]] + [c for c in kept if not c["clicked"]]
        history = _newest(page, clicks, days)[: rules.clicks]
        if history and any(c["clicked"] for c in kept):
            view[page_id] = {**page, "candidates": kept[: rules.candidates], "click": history, "pay": [], "cart": []}
    return view


def decode_page(record, item_ids, user_ids):
    """A page record in the form of `reference_pages`, and its ID."""
    import tensorflow as tf

    feature = tf.train.Example.FromString(record).features.feature
    columns = {
        name: list(feature[name].float_list.value or feature[name].int64_list.value or feature[name].bytes_list.value)
        for name in feature
    }
    names = {"position": "position", "dwell": "dwell_seconds", **{name: name for name in STATISTICS}}
    candidates = [
        {
            "item_id": item_ids[item],
            "clicked": bool(columns["clicked"][i]),
            "converted": bool(columns["converted"][i]),
            **{to: columns[name][i] for name, to in names.items()},
        }
        for i, item in enumerate(columns["item"])
    ]
    assert {len(columns[name]) for name in ("item", "clicked", "converted", *names)} == {len(candidates)}
    return columns["page_id"][0].decode(), {
        "user": user_ids[columns["user"][0]],
        "time": columns["timestamp"][0],
        "query": columns["query"][0].decode(),
        "candidates": candidates,
        **{
            name: [
                (time, item_ids[item])
                for time, item in zip(columns[f"{name}_time"], columns[f"{name}_item"], strict=True)
            ]
            for name in HISTORIES
        },
    }


def without_statistics(page):
    """A decoded page without the statistics of its candidates."""
    candidates = [{k: v for k, v in row.items() if k not in STATISTICS} for row in page["candidates"]]
    return {**page, "candidates": candidates}


def comparable(page):
    """A reference page without what records do not hold."""
    kept = ("item_id", "position", "clicked", "converted", "dwell_seconds", *STATISTICS)
    return {
        **{name: value for name, value in page.items() if name != "page_id"},
        "candidates": [{name: row[name] for name in kept if name in row} for row in page["candidates"]],
    }
