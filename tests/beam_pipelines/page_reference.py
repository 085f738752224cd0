"""What a page is, written down slowly and obviously: plain Python over lists of rows, one page at a time."""

from beam_pipelines.records import HISTORIES

IMPRESSION_DEFAULTS = {"converted": False, "dwell_seconds": 0.0, "query": ""}


def reference_pages(impressions, events, limits=HISTORIES):
    """Page ID to its content, with string IDs. Pages of several users are left out."""
    impressions = [{**IMPRESSION_DEFAULTS, **row} for row in impressions]
    pages = {}
    for page_id in {row["page_id"] for row in impressions}:
        rows = [row for row in impressions if row["page_id"] == page_id]
        if len({row["user_id"] for row in rows}) == 1:
            pages[page_id] = _page(rows)
    clicks = [
        (page["user"], page["time"], candidate["item_id"])
        for page in pages.values()
        for candidate in page["candidates"]
        if candidate["clicked"]
    ]
    clicks += [_step(e) for e in events if e["event"] == "click"]
    pays = [_step(e) for e in events if e["event"] == "pay"]
    for page in pages.values():
        page["click"] = _newest(page, clicks)[: limits["click"]]
        page["pay"] = _newest(page, pays)[: limits["pay"]]
        page["cart"] = _cart(page, events)[: limits["cart"]]
    return pages


def _page(rows):
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
        candidates.append(same[0])
    candidates.sort(key=lambda row: (row["position"], row["item_id"]))
    queries = [row["query"] for row in candidates if row["query"]]
    return {
        "user": rows[0]["user_id"],
        "time": min(row["timestamp"] for row in rows),
        "query": queries[0] if queries else "",
        "candidates": candidates,
    }


def _step(event):
    return event["user_id"], event["timestamp"], event["item_id"]


def _newest(page, steps):
    before = {(time, item) for user, time, item in steps if user == page["user"] and time < page["time"]}
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


def decode_page(record, item_ids, user_ids):
    """A page record in the form of `reference_pages`, and its ID."""
    import tensorflow as tf

    feature = tf.train.Example.FromString(record).features.feature
    ints = {name: list(feature[name].int64_list.value) for name in feature}
    return feature["page_id"].bytes_list.value[0].decode(), {
        "user": user_ids[ints["user"][0]],
        "time": ints["timestamp"][0],
        "query": feature["query"].bytes_list.value[0].decode(),
        "candidates": [
            {"item_id": item_ids[i], "position": p, "clicked": bool(c), "converted": bool(v), "dwell_seconds": d}
            for i, p, c, v, d in zip(
                ints["item"],
                ints["position"],
                ints["clicked"],
                ints["converted"],
                feature["dwell"].float_list.value,
                strict=True,
            )
        ],
        **{
            name: [(t, item_ids[i]) for t, i in zip(ints[f"{name}_time"], ints[f"{name}_item"], strict=True)]
            for name in HISTORIES
        },
    }


def comparable(page):
    """A reference page without what records do not hold."""
    kept = ("item_id", "position", "clicked", "converted", "dwell_seconds")
    return {**page, "candidates": [{name: row[name] for name in kept} for row in page["candidates"]]}
