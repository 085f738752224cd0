import datetime

import pytest

from beam_pipelines.format.errors import ArtifactError
from export.daily.html import ledger_page
from export.daily.ledger import LEDGER_FILE, Ledger, LedgerEntry


def entry(number, outcome="kept", **values):
    return LedgerEntry(day=datetime.date(2026, 3, number), outcome=outcome, **values)


def test_a_day_that_was_refused_is_replaced_and_no_other(tmp_path):
    ledger = Ledger(tmp_path)
    for each in (entry(1), entry(2, "refused", reasons=["a"]), entry(2, "refused", reasons=["b"]), entry(2)):
        ledger.add(each)
    again = Ledger(tmp_path)
    assert [each.outcome for each in again] == ["kept", "kept"]
    assert again[1].refused_before == ["a", "b"]
    assert "refused before: a; refused before: b" in ledger_page(again)
    for number in (1, 2):
        with pytest.raises(ArtifactError, match=r"ends with 2026-03-02; 2026-03-0\d must be later"):
            again.add(entry(number))
    assert len((tmp_path / LEDGER_FILE).read_text().splitlines()) == 2


def test_a_refusal_that_is_written_twice_is_one(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add(entry(1, "refused", reasons=["a"]))
    before = ledger.path.read_bytes()
    assert ledger.add(entry(1, "refused", reasons=["a"])) == ledger[0]
    assert ledger.path.read_bytes() == before


def test_days_that_were_not_refused_say_what_is_usual(tmp_path):
    ledger = Ledger(tmp_path)
    for each in (entry(1, "published", version=3), entry(2, "refused"), entry(3)):
        ledger.add(each)
    assert [each.day.day for each in ledger.worked()] == [1, 3]


def test_an_undefined_figure_is_none(tmp_path):
    Ledger(tmp_path).add(entry(1, candidate={"auc": float("nan")}))
    assert Ledger(tmp_path)[0].candidate == {"auc": None}


@pytest.mark.parametrize("line", ["{", '{"day": "2026-03-01"}', '{"day": "2026-03-01", "outcome": "kept", "more": 1}'])
def test_what_is_no_ledger_is_named(tmp_path, line):
    (tmp_path / LEDGER_FILE).write_text(f"{line}\n")
    with pytest.raises(ArtifactError, match=r"ledger.jsonl: line 1 is no day of a ledger"):
        Ledger(tmp_path)


def test_the_page_escapes_what_it_shows():
    page = ledger_page([entry(1, "refused", reasons=["<b>&"])])
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "No day so far" in ledger_page([])
