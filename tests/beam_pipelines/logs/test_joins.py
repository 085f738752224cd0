import pyarrow as pa
import pytest

from beam_pipelines.logs.joins import check_joins
from beam_pipelines.logs.rejections import RejectionSummary
from beam_pipelines.logs.survey import TableSurvey


def join(named, known):
    ids = pa.table({"id": pa.array(named, pa.string()), "rows": pa.array(named.values(), pa.int64())})
    survey = {"impressions": TableSurvey((), {}, RejectionSummary(), [], {"item_id": ids}, None)}
    return check_joins(survey, {"items": pa.array(known, pa.string())})["impressions", "items"]


def test_rows_and_ids_are_counted():
    found = join({"a": 3, "b": 1, "x": 4}, ["a", "b", "c"])
    assert found.counts.model_dump() == {"rows": 8, "joined": 4, "ids": 3, "joined_ids": 2}
    assert found.counts.share == 0.5
    assert (found.unmatched, found.offered, found.cause) == (["x"], ["c"], "")


def test_nothing_to_say_where_all_is_known():
    assert join({"a": 1}, ["a", "b"])[1:] == ([], [], "")
    assert join({}, []).counts.share == 1.0


@pytest.mark.parametrize(
    ("named", "known", "cause"),
    [
        (["100", "7"], ["0100", "007"], "leading zeros"),
        (["0100", "0007"], ["100", "7"], "leading zeros"),
        (["100.0", "7.0"], ["100", "7"], "decimal point"),
        (["a ", " b"], ["a", "b"], "spaces"),
        (["SKU1", "SKU2"], ["sku1", "sku2"], "letter case"),
        (['"a"', '"b"'], ["a", "b"], "quotes"),
        (["cafe\u0301"], ["caf\u00e9"], "Unicode"),
        (["item_12", "item_7"], ["12", "7"], "prefix"),
        (["\u200b12", "7\u00a0"], ["12", "7"], "cannot be seen"),
        (["1.08775E+08", "1.10065E+08"], ["108775015", "110065001"], "digits that were lost"),
        (["x", "y"], ["a", "b"], ""),
    ],
)
def test_the_likely_cause_is_found_with_two_ids_of_each_side(named, known, cause):
    found = join(dict.fromkeys(named, 1), [*known, "other"])
    assert found.counts.joined == 0
    assert cause in found.cause
    assert bool(cause) == bool(found.cause)
    assert found.unmatched == sorted(named)[:2]
    if cause and "lost" not in cause.replace("one side lost", ""):
        assert set(found.offered) == set(known)
        assert all(repr(text) in found.describe("impressions", "items") for text in [*named, *known])


def test_a_few_strangers_are_no_cause():
    found = join({"a": 9, "7": 1, "x": 1, "y": 1, "z": 1}, ["a", "07"])
    assert found.cause == ""
