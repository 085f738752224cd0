import json
import subprocess
import sys

import pytest

from benchmarks.base import ROOT
from benchmarks.catalogue import BENCHMARKS
from benchmarks.render_results import SINGLE_RUNS, duration, index, provenance, read_results, rendered, with_tables
from benchmarks.tables.cells import difference, table
from benchmarks.tables.registry import TABLES


@pytest.mark.parametrize("path", rendered(), ids=str)
def test_tables_are_what_the_results_say(path):
    assert (ROOT / path).read_text() == rendered()[path], "run python -m benchmarks.render_results"


def test_check_says_what_is_not_up_to_date():
    command = [sys.executable, "-m", "benchmarks.render_results", "--check"]
    subprocess.run(command, cwd=ROOT, check=True)


def test_every_benchmark_has_a_result_and_a_table():
    results = read_results()
    assert set(results) == {*BENCHMARKS, SINGLE_RUNS}
    assert list(TABLES) == list(BENCHMARKS)
    for name in BENCHMARKS:
        result = results[name]
        assert result["name"] == name
        assert set(result) - {"copied", "resumed"} == set(
            ("name", "shows", "peer", "machine", "date", "commit", "command", "seconds", "figures", "remarks")
        )
        assert result["shows"] == BENCHMARKS[name].shows


def test_a_changed_figure_changes_the_table():
    result = json.loads((ROOT / "benchmarks/results/serving.json").read_text())
    before = TABLES["serving"](result["figures"])
    after = TABLES["serving"](result["figures"] | {"p50_ms": 123.4})
    assert "123.4 ms" in after
    assert before != after


def test_the_time_of_a_resumed_run_is_not_told_as_the_whole():
    results, name = read_results(), "encoder_methods"
    of_whole = results[name]
    assert "; 38 minutes." in provenance({**of_whole, "seconds": 2280})
    resumed = {**of_whole, "seconds": 8, "resumed": True}
    assert "minutes" not in provenance(resumed)
    assert "its 8 seconds are of the rest" in provenance(resumed)
    (row,) = [line for line in index({**results, name: resumed}).splitlines() if line.startswith(f"| `{name}`")]
    assert row.endswith(f"| about {BENCHMARKS[name].full} (estimated: only a resumed run was timed) |")


def test_only_what_is_between_markers_is_made_anew():
    text = "before\n<!-- results: one -->\nold\n<!-- end of results -->\nafter\n"
    assert with_tables(text, {"one": "new"}) == text.replace("old", "new")


def test_differences_are_bold_where_the_interval_leaves_out_zero():
    assert difference(0.02, 0.01, 0.03) == "**+0.020** [+0.010, +0.030]"
    assert difference(-0.02, -0.03, -0.01) == "**-0.020** [-0.030, -0.010]"
    assert difference(0.0, -0.01, 0.01) == "+0.000 [-0.010, +0.010]"
    assert difference(0.02, None, None) == "+0.020"


def test_empty_cells_are_alike_wherever_they_stand():
    assert table(("", "", "a"), [["b", "", ""]]) == "| | | a |\n| --- | --- | --- |\n| b | | |"


def test_short_runs_are_told_in_seconds():
    assert [duration(seconds) for seconds in (5.2, 61, 95, 600)] == [
        "5 seconds",
        "61 seconds",
        "2 minutes",
        "10 minutes",
    ]
