from beam_pipelines.logs.directory import find_tables
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.scan import scan
from tests.beam_pipelines.logs.log_files import DAY, write


def test_the_scan_finds_all_ids_sorted(logs):
    write(logs / "events.csv", {"user_id": ["u9"], "item_id": ["00"], "timestamp": [DAY], "event": ["pay"]})
    found = scan(list(find_tables(logs, {}).values())[:2], ReadingRules({}))
    assert found.rows == {"impressions": 3, "events": 1}
    assert found.item_ids.to_pylist() == ["00", "01", "02"]
    assert found.user_ids.to_pylist() == ["007", "u1", "u9"]
