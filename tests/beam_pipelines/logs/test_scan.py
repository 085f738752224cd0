import pyarrow as pa
import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.directory import find_tables
from beam_pipelines.logs.scan import scan
from tests.beam_pipelines.logs.log_files import DAY, IMPRESSIONS, ITEMS, write


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([1_700_000_000] * 3, "seconds"),
        ([DAY] * 3, "milliseconds"),
        ([str(DAY)] * 3, "milliseconds"),
        (["2023-11-14"] * 3, "iso"),
        ([DAY] * 39 + [None, -5], "milliseconds"),
        (pa.array([0, 1, 2], pa.timestamp("s")), "milliseconds"),
    ],
)
def test_the_unit_is_detected(tmp_path, values, unit):
    many = {name: [column[0]] * len(values) for name, column in IMPRESSIONS.items()}
    write(tmp_path / "impressions.parquet", {**many, "timestamp": values})
    write(tmp_path / "items.parquet", ITEMS)
    assert scan([find_tables(tmp_path, {})["impressions"]]).units.detect() == unit


def test_mixed_units_are_an_error(logs):
    write(logs / "impressions.parquet", {**IMPRESSIONS, "timestamp": [DAY, DAY, 1_700_000_000]})
    with pytest.raises(InputError, match=r"impressions.timestamp mixes units \(2 like milliseconds, 1 like seconds\)"):
        scan([find_tables(logs, {})["impressions"]]).units.detect()
    write(logs / "impressions.parquet", IMPRESSIONS)
    events = {"user_id": ["u"], "item_id": ["01"], "timestamp": [1_700_000_000], "event": ["pay"]}
    write(logs / "events.csv", events)
    tables = find_tables(logs, {})
    with pytest.raises(InputError, match="impressions in milliseconds, events in seconds"):
        scan([tables["impressions"], tables["events"]]).units.detect()


def test_the_scan_finds_all_ids_sorted(logs):
    write(logs / "events.csv", {"user_id": ["u9"], "item_id": ["00"], "timestamp": [DAY], "event": ["pay"]})
    found = scan(list(find_tables(logs, {}).values())[:2])
    assert found.rows == {"impressions": 3, "events": 1}
    assert found.item_ids.to_pylist() == ["00", "01", "02"]
    assert found.user_ids.to_pylist() == ["007", "u1", "u9"]
