import datetime

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from beam_pipelines.logs.moments import UNITS, appearance, default_time_range, format_moment, parse_moment, read_moments

FIRST, LAST = default_time_range()
MOMENT = 1_700_000_000_000
PER_SECOND = {"seconds": 1, "milliseconds": 1000, "microseconds": 10**6, "nanoseconds": 10**9}
DIGITS = {
    "yyyymmdd": "%Y%m%d",
    "yymmddhh": "%y%m%d%H",
    "yyyymmddhh": "%Y%m%d%H",
    "yyyymmddhhmm": "%Y%m%d%H%M",
    "yyyymmddhhmmss": "%Y%m%d%H%M%S",
}
nanoseconds = st.integers(FIRST * 10**6, LAST * 10**6)


def read(values, unit):
    return read_moments(values if isinstance(values, pa.Array) else pa.array(values), unit, "column").to_pylist()


@settings(max_examples=30)
@given(nanoseconds)
def test_epoch_numbers_read_back_to_the_millisecond_in_every_unit_and_form(moment):
    for unit, per_second in PER_SECOND.items():
        number, rest = divmod(moment, 10**9 // per_second)
        expected = number * 1000 // per_second
        integers = pa.array([number, None])
        texts = [str(number), f" +{number} ", f"{number}.0", f"{number}.", f"00{number}", f"{number}e0", None]
        assert read(integers, unit) == [expected, None]
        assert read(integers.cast(pa.uint64()), unit) == [expected, None]
        assert read(integers.cast(pa.decimal128(38, 9)), unit) == [expected, None]
        assert read(texts, unit) == [expected] * 6 + [None]
        digits = str(number)
        assert read([f"{digits[0]}.{digits[1:]}E{len(digits) - 1}", f"{digits}00E-2"], unit) == [expected] * 2
        if unit == "seconds":
            assert read([f"{number}.{rest:09d}", f"{number}.{rest:09d}999999"], unit) == [moment // 10**6] * 2
            in_microseconds = float(f"{number}.{rest // 1000:06d}")
            assert read([in_microseconds, None], unit) == [moment // 10**6, None]
        elif unit != "nanoseconds":
            assert read([float(number), float("nan")], unit) == [expected, None]


@given(nanoseconds, st.integers(-14 * 60, 14 * 60), st.sampled_from("T "), st.sampled_from("-/"))
def test_iso_reads_back_to_the_millisecond_whatever_the_zone_and_form(moment, zone, between, dash):
    seconds, rest = divmod(moment, 10**9)
    sign, (hours, minutes) = "-" if zone < 0 else "+", divmod(abs(zone), 60)
    local = datetime.datetime.fromtimestamp(seconds + 60 * zone, datetime.UTC)
    utc = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    form = f"%Y{dash}%m{dash}%d{between}%H:%M"
    zones = [f"{sign}{hours:02d}:{minutes:02d}", f" {sign}{hours:02d}{minutes:02d}"]
    texts = [f"{local:{form}}:{local:%S}.{rest:09d}{zone}" for zone in zones]
    texts += [f" {utc:{form}}:{utc:%S},{rest:09d}{zone} " for zone in ("", "Z", " UTC", " GMT", "+00", " +00:00")]
    assert read(texts, "iso") == [moment // 10**6] * len(texts)
    assert read([f"{utc:{form}}:{utc:%S}{zone}" for zone in ("", "Z", "+0000")], "iso") == [seconds * 1000] * 3
    assert read([f"{utc:{form}}", f"{utc:{form}}Z"], "iso") == [seconds // 60 * 60_000] * 2
    assert read([f"{utc:%Y%m%dT%H%M%S}", f"{utc:%Y%m%dT%H%M%S}Z", "never"], "iso") == [seconds * 1000] * 2 + [None]
    assert read([f"{utc:%Y-%m-%d}", f"{utc:%Y/%m/%d}"], "iso") == [seconds // 86400 * 86_400_000] * 2


@given(nanoseconds)
def test_compact_dates_read_back(moment):
    date = datetime.datetime.fromtimestamp(moment // 10**9, datetime.UTC)
    for unit, form in DIGITS.items():
        if date.year < 2000 and unit == "yymmddhh":
            continue
        digits = date.strftime(form)
        expected = int(datetime.datetime.strptime(digits, form).replace(tzinfo=datetime.UTC).timestamp()) * 1000
        assert read([digits, f"{digits}.0", f"{digits}.5"], unit) == [expected, expected, None]
        assert read([int(digits), None], unit) == [expected, None]
        assert read([float(digits), None], unit) == [expected, None]


@given(nanoseconds)
def test_date_types_say_their_unit_themselves(moment):
    for unit, scale in [("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1)]:
        for zone in (None, "Europe/Paris", "Atlantis/Nowhere"):
            column = pa.array([moment // scale, None]).cast(pa.timestamp(unit, zone))
            assert read(column, "seconds") == [moment // scale * scale // 10**6, None]
    day = moment // 10**6 // 86_400_000
    assert read(pa.array([day], pa.int32()).cast(pa.date32()), "iso") == [day * 86_400_000]
    assert read(pa.array([day * 86_400_000]).cast(pa.date64()), "iso") == [day * 86_400_000]


@given(st.dates(datetime.date(1800, 1, 1), datetime.date(9998, 12, 31)), st.integers(0, 99), st.integers(0, 99))
def test_arrow_and_the_calendar_read_the_same(date, month, day):
    """A value that cannot be read must not change how its neighbours are."""
    texts = [str(date), f"{date}T23:59:59", f"{date.year}-{month:02d}-{day:02d}", f"{date} {month:02d}:{day:02d}:00"]
    together = read([*texts, "0000-00-00", "2023-02-29 00:00:00", "2023-11-14T22:13:20.5+01:00"], "iso")
    alone = [read([text], "iso")[0] for text in texts]
    assert together == [*alone, None, None, MOMENT - 3_599_500]
    assert alone[0] == (date - datetime.date(1970, 1, 1)).days * 86_400_000
    for text, moment in zip(texts, alone, strict=True):
        try:
            known = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
        except ValueError:
            assert moment is None
        else:
            assert moment == (known - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(
                0, 0, 1000
            )


@given(st.one_of(st.text(max_size=30), st.from_regex(r"[-+]?[0-9]{1,25}(\.[0-9]{0,25})?([eE][-+]?[0-9]{1,3})?")))
def test_any_text_is_a_time_or_none(text):
    for unit in UNITS:
        (moment,) = read([text], unit)
        assert moment is None or abs(moment) <= 253_402_300_799_999
    (iso,) = read([text], "iso")
    assert iso is None or len(text) >= 10


@pytest.mark.parametrize(
    ("column", "unit", "moments"),
    [
        ([-1, -1001, 2**62, -(2**62)], "milliseconds", [-1, -1001, 253_402_300_799_999, -253_402_300_799_999]),
        ([-1, 2**62], "seconds", [-1000, 253_402_300_799_999]),
        ([-1, -1_000_001, 2**62], "microseconds", [-1, -1001, 253_402_300_799_999]),
        (np.array([2**64 - 1], np.uint64), "nanoseconds", [9_223_372_036_854]),
        ([1e300, -1e300, float("inf")], "seconds", [253_402_300_799_999, -253_402_300_799_999, None]),
        (
            ["-1.5", "1e20", "1.5e-3", "9" * 38, "9" * 39],
            "seconds",
            [-1500, 253_402_300_799_999, 1, 253_402_300_799_999, None],
        ),
        (["0x10", "1_000", "١٢", "1e", "", "--1", "1,5"], "seconds", [None] * 7),
        ([20231314, 20230229, 20240229, 0, -20240229], "yyyymmdd", [None, None, 1_709_164_800_000, None, None]),
        ([23111424, 99123123, 5010100], "yymmddhh", [None, 4_102_441_200_000, 1_104_537_600_000]),
        (["2023-W46-2", "2023-318", "20231114", "2023-11-14T24:00:00", "2023-11-14T22:13:20+24:00"], "iso", [None] * 5),
        (["2023-11-14T22:13:20" + " " * 60 + "x", "2023-11-14T22:13:20.é", "2023-1-4"], "iso", [None] * 3),
        ([1_700_000_000], "iso", [None]),
    ],
)
def test_odd_values(column, unit, moments):
    assert read(column, unit) == moments


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1700000000", MOMENT),
        ("1700000000000", MOMENT),
        ("2023-11-14T22:13:20", MOMENT),
        ("2023-11-14T23:13:20.5+01:00", MOMENT + 500),
        ("2023-11-14T22:13:20Z", MOMENT),
        ("20231114", 1_699_920_000_000),
        ("1969-12-31", -86_400_000),
        ("20110105", None),
        ("1000", None),
        ("soon", None),
        ("", None),
        ("-1", None),
    ],
)
def test_a_moment_is_parsed_if_there_is_one_way_to_read_it(text, moment):
    assert parse_moment(text) == moment


def test_how_a_value_looks_is_said():
    assert format_moment(MOMENT + 5) == "2023-11-14T22:13:20.005Z"
    assert appearance("1700000000") == "seconds: 2023-11-14T22:13:20Z"
    assert appearance("20110105") == "yyyymmdd: 2011-01-05T00:00:00Z or yymmddhh: 2020-11-01T05:00:00Z"
    assert appearance("14.11.2023").startswith("a date that does not say which is the day")
    assert appearance("2023-11-14 10:13:20 PM").startswith("a time on a clock of 12 hours")
    assert appearance("2023-11-14 22:13:20 PST").startswith("a time in a zone that only has a name")
    assert appearance("2023-11-14T22:13:20Z[UTC]").startswith("a time in a zone that only has a name")
    assert appearance("soon") is None
