from beam_pipelines.logs.directory import find_tables
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.survey import named_ids, survey_tables
from tests.beam_pipelines.logs.log_files import DAY, IMPRESSIONS, write

RULES = ReadingRules(dict.fromkeys(("impressions.timestamp", "events.timestamp"), "milliseconds"))


def test_ids_of_valid_rows_are_counted_and_sorted(logs):
    events = {"user_id": ["u9", "u9", "u8"], "item_id": ["00", "02", "03"], "timestamp": [DAY, DAY, DAY]}
    write(logs / "events.csv", {**events, "event": ["pay", "cart", "stolen"]})
    found = survey_tables(find_tables(logs, {}), RULES)
    assert named_ids(found, "item_id").to_pylist() == ["00", "01", "02"]
    assert named_ids(found, "user_id").to_pylist() == ["007", "u1", "u9"]
    assert found["impressions"].ids["item_id"].to_pydict() == {"id": ["01", "02"], "rows": [2, 1]}
    assert found["events"].ids["user_id"].to_pydict() == {"id": ["u9"], "rows": [2]}


def test_every_row_of_every_file_is_used_or_rejected(logs):
    (logs / "impressions.parquet").unlink()
    write(logs / "impressions" / "1.csv", IMPRESSIONS)
    path = write(logs / "impressions" / "2.csv", {**IMPRESSIONS, "position": [0, -1, 2], "user_id": ["a", "b", ""]})
    path.write_text(path.read_text() + "half a row\n")
    found = survey_tables(find_tables(logs, {}), RULES)["impressions"]
    assert [(file.path.name, file.rows, file.rejected) for file in found.files] == [("1.csv", 3, 0), ("2.csv", 4, 3)]
    assert found.conservation("impressions") == "impressions: 7 rows = 4 used + 3 rejected"
    assert {"missing user_id", "invalid position"} <= found.rejected.by_reason().keys()
    assert found.rejected.rows() == 3
    assert found.dead_letters == []  # memory does not grow with them
    assert named_ids({"impressions": found}, "user_id").to_pylist() == ["007", "a", "u1"]


def test_rows_of_items_are_kept_in_the_order_of_files_and_lines(logs):
    (logs / "items.parquet").unlink()
    for number, title in enumerate("ab"):
        columns = {"item_id": ["1", "0"], "category": ["", ""], "title": [title, title], "image": ["", ""]}
        write(logs / "items" / f"{number}.parquet", columns)
    valid = survey_tables(find_tables(logs, {}), RULES)["items"].valid
    assert list(zip(*valid.select(["item_id", "title"]).to_pydict().values(), strict=True)) == [
        ("1", "a"),
        ("0", "a"),
        ("1", "b"),
        ("0", "b"),
    ]


def test_values_over_several_lines_are_counted(logs):
    (logs / "items.parquet").unlink()
    (logs / "items.csv").write_text('item_id,category,title,image\n\n01,a,"two\nlines",\n02,b,one,\n')
    found = survey_tables(find_tables(logs, {}), RULES)["items"]
    assert [(file.lines, file.continued, file.rows) for file in found.files] == [(3, 1, 2)]
    assert found.conservation("items") == "items: 2 rows = 2 used + 0 rejected (1 more lines continue values)"
