import json
from collections import Counter

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.rejections import RejectedRow, check_bad_fraction, count_dead_letters, write_dead_letters


def test_dead_letters_are_sorted_counted_and_bounded(tmp_path):
    rows = [RejectedRow.of("events", reason, number) for number, reason in enumerate(["no item", "no time", "no item"])]
    write_dead_letters(tmp_path, "events", (row.to_json() for row in rows))
    lines = (tmp_path / "dead_letters" / "events.jsonl").read_text().splitlines()
    assert lines == sorted(lines)
    assert sorted(json.loads(line)["reason"] for line in lines) == ["no item", "no item", "no time"]
    counters = Counter({"rows.events": 10})
    count_dead_letters(tmp_path, counters, 0.3)
    assert counters == {"rows.events": 10, "rejected.events.no item": 2, "rejected.events.no time": 1}
    with pytest.raises(
        InputError, match=r"^3 of 10 rows of events are bad \(2 no item, 1 no time\); e\.g\. no item; no time; `max_bad"
    ):
        count_dead_letters(tmp_path, Counter({"rows.events": 10}), 0.29)


def test_as_much_as_allowed_is_not_too_much():
    check_bad_fraction("pictures", Counter(missing=1), 10, 0.1)
    with pytest.raises(InputError, match=r"allows 0\.1$"):
        check_bad_fraction("pictures", Counter(missing=2), 10, 0.1)
