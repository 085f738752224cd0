import json

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.directory import FileCounts, LogDirectory, find_tables
from tests.beam_pipelines.logs.log_files import IMPRESSIONS, ITEMS, rows_of, write


def test_columns_map_other_names(tmp_path):
    renamed = {"article" if k == "item_id" else k: v for k, v in IMPRESSIONS.items()}
    write(tmp_path / "impressions.csv", {**renamed, "item_id": ["not", "this", "one"]})
    write(tmp_path / "items.parquet", {**ITEMS, "preis": [1.0, 2.0]})
    tables = find_tables(tmp_path, {"impressions.item_id": "article", "items.stat_price": "preis"})
    assert [row["item_id"] for row in rows_of(tables["impressions"])[0]] == ["01", "02", "01"]
    assert [row["stat_price"] for row in rows_of(tables["items"])[0]] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("column", "name", "message"),
    [
        ("article", "sku", "is not TABLE.COLUMN=NAME"),
        ("impressions.item_id", "", "is not TABLE.COLUMN=NAME"),
        ("orders.item_id", "x", "no table 'orders'"),
        ("items.colour", "x", "items has no column 'colour'"),
        ("impressions.item_id", "sku", "no column 'sku'"),
        ("impressions.query", "words", "no file of impressions has a column 'words'"),
        ("users.stat_age", "age", "has no such table"),
    ],
)
def test_a_wrong_name_of_a_column_is_told(logs, column, name, message):
    with pytest.raises(InputError, match=message):
        find_tables(logs, {column: name})


@pytest.mark.parametrize("column", ["page_id", "user_id", "item_id", "timestamp", "position", "clicked"])
def test_a_missing_column_is_named_with_the_fix(logs, column):
    write(logs / "impressions.parquet", {k: v for k, v in IMPRESSIONS.items() if k != column})
    with pytest.raises(InputError, match=rf"no column '{column}'.*`columns` impressions.{column}=NAME"):
        find_tables(logs, {})


@pytest.mark.parametrize("column", ["item_id", "category", "title", "image"])
def test_items_must_have_their_columns(logs, column):
    write(logs / "items.parquet", {k: v for k, v in ITEMS.items() if k != column})
    with pytest.raises(InputError, match=f"items.parquet: no column '{column}'"):
        find_tables(logs, {})


def test_missing_double_and_empty_tables(logs):
    (logs / "impressions.parquet").rename(logs / "impression.parquet")
    with pytest.raises(InputError, match=r"no table impressions; if it is impression\.parquet, rename that"):
        find_tables(logs, {})
    (logs / "impression.parquet").unlink()
    with pytest.raises(InputError, match=r"no table impressions; it must be a file impressions and one of \.parquet"):
        find_tables(logs, {})
    (logs / "impressions").mkdir()
    with pytest.raises(InputError, match="impressions: no data in it"):
        find_tables(logs, {})
    write(logs / "impressions.csv", IMPRESSIONS)
    with pytest.raises(InputError, match=r"exists twice \(impressions, impressions.csv\)"):
        find_tables(logs, {})


def test_a_directory_knows_its_notice_and_its_files(logs):
    assert LogDirectory.open(logs, {}).notice == ""
    (logs / "logs.json").write_text(json.dumps({"notice": "made up"}))
    opened = LogDirectory.open(logs, {})
    assert (opened.notice, opened.images) == ("made up", logs / "images")
    counts = {file: FileCounts(file, 4, 1, 1) for table in opened.tables.values() for file in table.files}
    assert [(source.path, source.bytes) for source in opened.sources(counts)] == [
        (f"{name}.parquet", (logs / f"{name}.parquet").stat().st_size) for name in ("impressions", "items")
    ]
    with pytest.raises(InputError, match=r"^`logs`: no directory .*nowhere"):
        LogDirectory.open(logs / "nowhere", {})


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_change_of_a_file_is_noticed(logs, change):
    opened = LogDirectory.open(logs, {})
    opened.check_unchanged()
    if change == "gone":
        (logs / "items.parquet").unlink()
    else:
        write(logs / "items.parquet", {name: values[:1] for name, values in ITEMS.items()})
    with pytest.raises(InputError, match=r"items.parquet changed while it was read"):
        opened.check_unchanged()


def test_clicks_may_be_told_by_events_alone(logs):
    write(logs / "impressions.parquet", {name: values for name, values in IMPRESSIONS.items() if name != "clicked"})
    with pytest.raises(InputError, match="no column 'clicked'"):
        LogDirectory.open(logs, {})
    assert "clicked" not in LogDirectory.open(logs, {}, clicked_is_optional=True).tables["impressions"].columns
