"""The command that reads logs without building, and the function behind it."""

import pytest

from beam_pipelines import BuildOptions, build_dataset, check, check_logs
from beam_pipelines.format.errors import InputError
from beam_pipelines.shell.command import run_command
from tests.beam_pipelines.logs.log_files import IMPRESSIONS, ITEMS, write
from tests.beam_pipelines.random_logs import SPLIT
from tests.beam_pipelines.remote import copied


@pytest.fixture
def small_logs(tmp_path):
    write(tmp_path / "logs" / "impressions.csv", IMPRESSIONS)
    write(tmp_path / "logs" / "items.csv", {**ITEMS, "image": ["", ""]})
    return tmp_path / "logs"


def test_good_logs_have_no_problem(logs):
    found = check_logs(logs)
    assert (found.problems, found.warnings) == ([], [])
    assert {name: table.rows for name, table in found.survey.items()}.keys() == {"impressions", "events", "items"}
    assert found.joins["impressions", "items"].counts.share > 0.8


def test_it_prints_tables_columns_times_and_joins(small_logs, capsys):
    closing = check.main(["--logs", str(small_logs)])
    printed = capsys.readouterr().out
    assert "impressions: 3 rows = 3 used + 0 rejected (impressions.csv)" in printed
    assert "items: 2 rows = 2 used + 0 rejected (items.csv)" in printed
    [line] = [line for line in printed.splitlines() if line.startswith("user_id")]
    assert line.split() == ["user_id", "string", "100.0%", "100.0%", "0", "007"]
    assert "impressions.timestamp" in printed
    assert "2023-11-14" in printed
    assert "3 of 3 rows of impressions have their item_id in items" in printed
    assert closing == "checked: 3 rows of impressions, 2 rows of items; a build would use them"


def test_logs_in_a_store_are_checked_like_local_ones(logs, s3_server, capsys):
    remote = copied(logs, f"{s3_server}/check")
    closing = check.main(["--logs", str(remote)])
    printed = capsys.readouterr().out
    assert check.main(["--logs", str(logs)]) == closing
    assert capsys.readouterr().out == printed
    with pytest.raises(SystemExit) as stop:
        run_command(check.main, ["--logs", "s3://nowhere/logs"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_would_stop_a_build_is_listed_and_stops_it(small_logs, tmp_path, capsys):
    write(small_logs / "impressions.csv", {**IMPRESSIONS, "item_id": ["1", "2", "1"], "position": ["x", "y", "0"]})
    with pytest.raises(SystemExit) as stop:
        run_command(check.main, ["--logs", str(small_logs)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "2 of 3 rows of impressions are bad" in error
    assert "leading zeros that one side lost; --min-joined is 0.5" in error
    with pytest.raises(InputError, match=r"2 of 3 rows of impressions are bad .*\(and 1 more: beam_pipelines.check"):
        build_dataset(small_logs, tmp_path / "d", BuildOptions(split_by_time=SPLIT))
    assert not (tmp_path / "d").exists()


def test_a_join_that_is_allowed_to_fail_is_counted(small_logs, tmp_path):
    write(small_logs / "impressions.csv", {**IMPRESSIONS, "item_id": ["1", "2", "01"]})
    options = {"split_by_time": SPLIT, "min_joined": 0.3}
    with pytest.raises(InputError, match=r"differ by leading zeros that one side lost; `max_bad_fraction` allows 0.1"):
        build_dataset(small_logs, tmp_path / "d", BuildOptions(**options))
    manifest = build_dataset(small_logs, tmp_path / "d", BuildOptions(**options, max_bad_fraction=0.7))
    assert manifest.joins["impressions.items"].model_dump() == {"rows": 3, "joined": 1, "ids": 3, "joined_ids": 1}
    assert {source.path: (source.rows, source.rejected) for source in manifest.sources} == {
        "impressions.csv": (3, 0),
        "items.csv": (2, 0),
    }
    assert manifest.columns["items.title"].present == 2


def test_pictures_are_looked_for(small_logs, capsys):
    write(small_logs / "items.csv", {**ITEMS, "image": ["0.png", "1.png"]})
    assert "items.image names 2 pictures such as '0.png'" in check_logs(small_logs).problems[0]
    (small_logs / "images").mkdir()
    (small_logs / "images" / "0.PNG").write_bytes(b"looked for, not read")
    [problem] = check_logs(small_logs).problems
    assert problem.startswith("1 of 2 items with a picture have one that is there (1 missing: '1.png'")
    check.main(["--logs", str(small_logs), "--max-bad-fraction", "0.5"])
    assert "1 of 2 items with a picture have one that is there (1 missing: '1.png'" in capsys.readouterr().out
