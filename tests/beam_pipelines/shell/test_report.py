import json
import math

import pytest

from beam_pipelines.shell.report import aligned, finite, write_json


def test_columns_are_aligned():
    rows = [("ranker", "feature", "AUC"), ("none", "none", "0.6"), ("b", "cluster_id", "10.75")]
    assert aligned(rows).splitlines() == [
        "ranker     feature    AUC",
        "none          none    0.6",
        "b       cluster_id  10.75",
    ]
    assert aligned(rows, text_columns=2).splitlines()[1] == "none    none          0.6"
    with pytest.raises(ValueError, match="argument 2"):
        aligned([("a", "b"), ("a",)])


def test_undefined_figures_are_null(tmp_path):
    report = {"a": [1.5, math.nan, {"b": -math.inf}], "c": (math.nan, 2), "日本": "ü", "d": True, "e": None}
    expected = {"a": [1.5, None, {"b": None}], "c": [None, 2], "日本": "ü", "d": True, "e": None}
    assert finite(report) == expected
    write_json(tmp_path / "report.json", report)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert "日本" in text
