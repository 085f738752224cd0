import numpy as np
import pytest

from benchmarks.ranker.kuairand import compare
from benchmarks.tables.ranker import kuairand
from models.metrics.auc import auc
from tests.models.evaluation.scored import scored


def test_systems_are_compared_with_the_first_by_the_means_of_their_runs():
    pages = scored()["ranker0"]
    rng = np.random.default_rng(1)
    runs = [[rng.random(len(pages.page)) for _ in range(n)] for n in (2, 3)]
    found = compare(pages, {"fuxictr": runs[0], "ours_members": runs[1]})
    aucs = [[auc(run, pages.clicked) for run in each] for each in runs]
    for name, expected in zip(("fuxictr", "ours_members"), aucs, strict=True):
        assert found[name]["auc_of_seeds"] == pytest.approx(expected)
        assert found[name]["auc"] == pytest.approx(np.mean(expected))
    gap = found["ours_members"]["differences"]["auc"]
    assert gap["low"] < gap["difference"] < gap["high"]
    assert gap["difference"] == pytest.approx(np.mean(aucs[1]) - np.mean(aucs[0]))
    figures = {"candidates": len(pages.page), "seeds": 3, "members": 4, "systems": found}
    table = kuairand(figures | {"averaged_less_averaged": found["ours_members"]["differences"]})
    # Bold: beyond its interval.
    assert f"| ours, 4 members | {np.mean(aucs[1]):.4f} | **{gap['difference']:+.4f} [" in table
    assert f"Averaged less averaged: AUC **{gap['difference']:+.4f} [" in table
