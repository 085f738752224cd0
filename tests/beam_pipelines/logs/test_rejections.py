import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import File
from beam_pipelines.logs.rejections import (
    RejectedRow,
    RejectionSummary,
    check_bad_fraction,
    count_dead_letters,
    file_of,
    shown,
    write_dead_letters,
)


def test_dead_letters_are_sorted_counted_and_bounded(tmp_path):
    rows = [RejectedRow.of("events", reason, number) for number, reason in enumerate(["no item", "no time", "no item"])]
    written = write_dead_letters(tmp_path, "events", (row.to_json() for row in rows))
    assert written.file == File.of(tmp_path, "dead_letters/events.jsonl", 3)
    lines = (tmp_path / "dead_letters" / "events.jsonl").read_text().splitlines()
    assert lines == sorted(lines)
    assert sorted(json.loads(line)["reason"] for line in lines) == ["no item", "no item", "no time"]
    counters = Counter({"rows.events": 10})
    count_dead_letters([written], counters, 0.3)
    assert counters == {"rows.events": 10, "rejected.events.no item": 2, "rejected.events.no time": 1}
    with pytest.raises(
        InputError, match=r"^3 of 10 rows of events are bad \(2 no item, 1 no time\); e\.g\. no item; no time; `max_bad"
    ):
        count_dead_letters([written], Counter({"rows.events": 10}), 0.29)


def row(reason, line, column=None, value=None, table="events"):
    return RejectedRow.of(table, reason, line, f"{table}.csv", line, column, value)


def explained(*rows):
    """In whatever order rows come, and however they are divided, what is said of them is the same."""
    texts = set()
    for seed in range(5):
        order = random.Random(seed).sample(rows, len(rows))
        summary, rest = RejectionSummary(), RejectionSummary()
        summary.add(order[:seed])
        rest.add(order[seed:])
        summary.merge(rest)
        assert summary.rows() == len(rows)
        texts.add(tuple(map(str, summary.by_reason().values())))
    (only,) = texts
    return list(only)


def test_a_reason_is_explained_by_one_row_and_what_is_accepted():
    values = ["buy", "pv", "pv", "fav", *(f"other{n}" for n in range(6))]
    rows = [row("invalid event", 10 - n, "event", value) for n, value in enumerate(values)]
    assert explained(*rows) == [
        "events.csv:1: event 'other5' (met: 'pv' 2 times, 'buy' 1 times, 'fav' 1 times, 'other0' 1 times, 'other1' 1 "
        "times); accepted: click, pay, cart, cart_remove"
    ]
    assert explained(row("invalid position", 2, "position", "1st", "impressions")) == [
        "impressions.csv:2: position '1st'; accepted: a whole number from 0"
    ]
    assert explained(row("missing user_id", 2, "user_id"), row("missing item_id", 5, "item_id", "\\\\N")) == [
        "events.csv:5: no item_id ('\\\\N' is one of `missing_markers`)",
        "events.csv:2: no user_id",
    ]
    assert explained(row("malformed row", 7)) == ["events.csv:7: malformed row"]


def test_times_are_told_what_they_look_like():
    assert explained(row("timestamp out of range", 2, "timestamp", "1700000000")) == [
        "events.csv:2: timestamp '1700000000' (looks like seconds: 2023-11-14T22:13:20Z); accepted: times within "
        "`time_range`"
    ]
    (text,) = explained(row("invalid timestamp", 2, "timestamp", "01/02/2024"))
    assert re.match(
        r"events.csv:2: timestamp '01/02/2024' \(looks like a date that .*\); accepted: epoch seconds, ", text
    )


def test_values_are_shown_short_and_on_one_line_and_ids_not_at_all():
    assert shown("event", "pay\n\x00é") == "pay\\n\\x00é"
    assert shown("event", "x" * 41) == "x" * 39 + "…"
    assert shown("statistic", 3.5) == "3.5"
    assert re.fullmatch("sha256:[0-9a-f]{12}", shown("id", "alice@example.com"))
    assert shown("id", "alice") != shown("id", "bob")


def test_files_are_named_as_they_are_in_the_logs():
    for place in ("/data", "/data/events", "/events/2026"):
        assert file_of("events", Path(place) / "events.csv") == "events.csv"
        assert file_of("events", Path(place) / "events/dt=1/part.csv") == "events/dt=1/part.csv"


def test_as_much_as_allowed_is_not_too_much():
    check_bad_fraction("pictures", Counter(missing=1), 10, 0.1)
    with pytest.raises(InputError, match=r"allows 0\.1$"):
        check_bad_fraction("pictures", Counter(missing=2), 10, 0.1)
