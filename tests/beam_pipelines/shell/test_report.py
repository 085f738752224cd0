import pytest

from beam_pipelines.shell.report import aligned


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
