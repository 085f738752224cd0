import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.directory import find_tables
from tests.beam_pipelines.logs.log_files import DAY, IMPRESSIONS, ITEMS, impressions_of, rows_of, write


@pytest.mark.parametrize("format", ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"])
@pytest.mark.parametrize("folder", [False, True])
def test_every_format_gives_the_same_rows(tmp_path, format, folder):
    write(tmp_path / "items.parquet", ITEMS)
    expected = impressions_of(tmp_path / "expected")[0]
    if folder:
        write(tmp_path / "impressions" / f"1.{format}", {k: v[:1] for k, v in IMPRESSIONS.items()})
        write(tmp_path / "impressions" / f"2.{format}", {k: v[1:] for k, v in IMPRESSIONS.items()})
        (tmp_path / "impressions" / "_SUCCESS").touch()
        (tmp_path / "impressions" / f"._1.{format}").touch()
    else:
        write(tmp_path / f"impressions.{format}", IMPRESSIONS)
    valid, rejected = rows_of(find_tables(tmp_path, {})["impressions"])
    assert (valid, rejected) == (expected, [])
    assert valid[0] == {
        "page_id": "p",
        "user_id": "007",
        "item_id": "01",
        "timestamp": DAY,
        "position": 0,
        "clicked": True,
        "converted": False,
        "dwell_seconds": 0.0,
        "query": "",
    }


@pytest.mark.parametrize("format", ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"])
def test_an_empty_file_is_named(logs, format):
    (logs / "impressions.parquet").unlink()
    (logs / f"impressions.{format}").touch()
    with pytest.raises(InputError, match=rf"impressions.{format} is empty"):
        find_tables(logs, {})


@pytest.mark.parametrize("format", ["parquet", "csv.gz", "jsonl.gz"])
def test_a_truncated_file_is_named(logs, format):
    (logs / "impressions.parquet").unlink()
    path = write(logs / f"impressions.{format}", {k: v * 5000 for k, v in IMPRESSIONS.items()})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=rf"impressions.{format} cannot be read"):
        rows_of(find_tables(logs, {})["impressions"])


def test_a_file_of_another_format_is_named(logs):
    (logs / "impressions.parquet").write_text("page_id,user_id\n" * 100)
    with pytest.raises(InputError, match=r"impressions.parquet cannot be read"):
        find_tables(logs, {})


def test_malformed_lines_are_rejected_rows(tmp_path):
    write(tmp_path / "items.parquet", ITEMS)
    path = write(tmp_path / "impressions.csv", IMPRESSIONS)
    path.write_text(path.read_text() + '"p","u"\n' + "1,2,3,4,5,6,7,8\n")
    valid, rejected = rows_of(find_tables(tmp_path, {})["impressions"])
    assert len(valid) == 3
    assert [r.reason for r in rejected] == ["malformed row"] * 2
    path.unlink()
    path = write(tmp_path / "impressions.jsonl", IMPRESSIONS)
    path.write_text(path.read_text() + '{"page_id": \n[1, 2]\n\n{"page_id": "\\ud800"}\n')
    valid, rejected = rows_of(find_tables(tmp_path, {})["impressions"])
    assert len(valid) == 3
    assert [r.reason for r in rejected] == ["malformed row"] * 3
