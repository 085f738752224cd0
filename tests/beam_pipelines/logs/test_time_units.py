import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.directory import find_tables
from beam_pipelines.logs.moments import format_moment
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.time_units import detect_units
from tests.beam_pipelines.logs.log_files import DAY, IMPRESSIONS, ITEMS, write


def units_of(tmp_path, times, items=None, **told):
    many = {name: [column[0]] * len(times) for name, column in IMPRESSIONS.items()}
    write(tmp_path / "impressions.parquet", {**many, "timestamp": times})
    write(tmp_path / "items.parquet", {**ITEMS, **(items or {})})
    return detect_units(find_tables(tmp_path, {}), ReadingRules(**({"units": {}} | told)))


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([1_700_000_000] * 3, "seconds"),
        ([1_700_000_000.25] * 3, "seconds"),
        ([DAY] * 3, "milliseconds"),
        ([str(DAY)] * 3, "milliseconds"),
        ([1000 * DAY] * 3, "microseconds"),
        ([str(1_000_000 * DAY)] * 3, "nanoseconds"),
        (["2023-11-14"] * 3, "iso"),
        (["1.7E12", "1.700000000001E12"], "milliseconds"),
        (["2.0231114E7"], "yyyymmdd"),
        ([20231114], "yyyymmdd"),
        (["23111422", "23111423"], "yymmddhh"),
        ([2023111422], "yyyymmddhh"),
        ([202311142213], "yyyymmddhhmm"),
        (["20231114221320"], "yyyymmddhhmmss"),
        ([DAY] * 39 + [None, -5], "milliseconds"),
        (pa.array([1_700_000_000, None], pa.timestamp("s")), "iso"),
        (pa.array([19_675], pa.date32()), "iso"),
        (pa.array([str(DAY)]).dictionary_encode(), "milliseconds"),
    ],
)
def test_the_unit_is_detected(tmp_path, times, unit):
    found = units_of(tmp_path, times)["impressions.timestamp"]
    assert (found.unit, found.told) == (unit, False)
    assert format_moment(found.moment).startswith("2023-11-14T")


def test_every_column_has_its_own_unit(tmp_path):
    events = {"user_id": ["u"], "item_id": ["01"], "timestamp": [1_700_000_000], "event": ["pay"]}
    write(tmp_path / "events.csv", events)
    found = units_of(tmp_path, [DAY], {"published_at": ["\\N", "1984-06-08"]})
    assert {name: str(unit) for name, unit in found.items()} == {
        "impressions.timestamp": "milliseconds (detected, e.g. 1700000000000 is 2023-11-14T22:13:20Z)",
        "events.timestamp": "seconds (detected, e.g. 1700000000 is 2023-11-14T22:13:20Z)",
        "items.published_at": "iso (detected, e.g. 1984-06-08 is 1984-06-08T00:00:00Z)",
    }


def test_a_unit_that_is_told_is_not_questioned(tmp_path):
    told = {"impressions.timestamp": "milliseconds", "items.published_at": "iso"}
    found = units_of(tmp_path, [1_700_000_000], {"published_at": [None, None]}, units=told)
    assert str(found["impressions.timestamp"]) == "milliseconds (told, e.g. 1700000000 is 1970-01-20T16:13:20Z)"
    assert str(found["items.published_at"]) == "iso (told)"
    assert "items.published_at" not in units_of(tmp_path, [DAY], {"published_at": pa.nulls(2)})


def test_books_are_older_than_logs(tmp_path):
    for published, unit in [([-2e9, 1.5e9], "seconds"), ([18_130_128, 20_200_228], "yyyymmdd")]:
        assert units_of(tmp_path, [DAY], {"published_at": published})["items.published_at"].unit == unit
    with pytest.raises(InputError, match=r"^impressions\.timestamp has no times .* '18130128'; .* from 1995-01-01 to"):
        units_of(tmp_path, [18_130_128])


@pytest.mark.parametrize(
    ("times", "error"),
    [
        (
            [DAY, DAY, 1_700_000_000],
            r"mixes units: of 3 sampled values, 2 milliseconds \('1700000000000' is 2023-11-14T22:13:20Z\), "
            r"1 seconds \('1700000000' is 2023-11-14T22:13:20Z\); store them alike$",
        ),
        (
            [20110105],
            r"can be read as yyyymmdd \('20110105' is 2011-01-05T00:00:00Z\) or yymmddhh "
            r"\('20110105' is 2020-11-01T05:00:00Z\); pass `timestamp_unit` impressions.timestamp=UNIT$",
        ),
        (
            ["01/02/2024", "02/02/2024"],
            r"but '01/02/2024' and '02/02/2024' \(looks like a date that does not say which",
        ),
        (["2024-1-5", "5.1.2024"], r"looks like a date without leading zeros"),
        ([1998, 2003], r"looks like a year alone"),
        (
            ["1.70407E+12", "1.70408E+12"],
            r"has times such as '1\.70407E\+12', whose last digits are lost; store times as",
        ),
        (["1.7040672e+12"], r"has times such as '1\.7040672e\+12', whose last digits are lost"),
        (["Mon, 01 Jan 2024 00:00:00 GMT"], r"looks like a date with the name of a month; write year-month-day\)"),
        ([45292.5], r"looks like a day number of a spreadsheet"),
        ([3, 4], r"has no times that can be read, but '3' and '4'; accepted: epoch seconds, .* \(`time_range`\)$"),
        (np.array([DAY], np.float32), r"type float, which cannot hold times exactly, so that different moments become"),
        (np.array([3], np.float16), r"type halffloat, which cannot hold times exactly"),
        ([1e6 * DAY], r"type double, which cannot hold times exactly"),
        ([True], "type bool, which cannot be read as a time"),
        ([[DAY]], "type list<.*>, which cannot be read as a time"),
        (pa.array([3], pa.time32("s")), r"type time32.*, which cannot be read as a time"),
    ],
)
def test_what_has_no_one_unit_is_an_error(tmp_path, times, error):
    with pytest.raises(InputError, match=error):
        units_of(tmp_path, times)


def test_other_times_can_be_plausible(tmp_path):
    assert units_of(tmp_path, [DAY], time_range=(0, DAY))["impressions.timestamp"].unit == "milliseconds"
    with pytest.raises(InputError, match=r"can be read as seconds .* or milliseconds .*; pass `timestamp_unit`"):
        units_of(tmp_path, [3, 4], time_range=(0, DAY))


def test_many_files_are_sampled(tmp_path):
    many = {name: [column[0]] for name, column in IMPRESSIONS.items()}
    for day in range(40):
        time = DAY if day % 2 else DAY // 1000
        write(tmp_path / "impressions" / f"part-{day:02d}.csv", {**many, "timestamp": [time]})
    write(tmp_path / "items.parquet", ITEMS)
    with pytest.raises(InputError, match=r"impressions.timestamp mixes units: of 8 sampled values"):
        detect_units(find_tables(tmp_path, {}), ReadingRules({}))
