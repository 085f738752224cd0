import time

from beam_pipelines.format.text_file import finite
from models.evaluation.report import evaluation_report, report_table
from models.evaluation.slices import by_count
from tests.models.evaluation.scored import scored


def test_a_large_comparison_takes_seconds():
    scores = scored(pages=40_000, users=20_000, candidates=19, noises=(1.0, 0.5))
    first = scores["ranker0"]
    assert len(first.ctr) > 390_000
    start = time.process_time()
    slices = [by_count("item", first.item)]
    report = evaluation_report(scores, first.item > 30, slices, {"a": [0], "b": [1]}, 1.0)
    assert time.process_time() - start < 20
    assert report["models"]["ranker1"]["all"]["differences"]["auc"]["low"] > 0


def test_the_table_has_a_row_per_ranker_and_per_system():
    measured = scored(noises=(1.0, 0.3, 0.9))
    first = measured["ranker0"]
    report = evaluation_report(measured, first.item > 50, [], {"a": [0, 2], "b": [1]}, 1.0)
    for model in report["models"].values():
        model["image_feature"] = "none"
    table = report_table(finite({"notice": "simulated", "split": "test", "pages": 60, **report}))
    runs, means = (part.splitlines() for part in table.split("\n\n")[:2])
    assert [line.split()[0] for line in runs] == ["model", "ranker0", "ranker1", "ranker2"]
    assert [line.split()[:2] for line in means[1:]] == [["a", "2"], ["b", "1"]]
    assert len({len(line) for line in runs}) == len({len(line) for line in means}) == 1
    every = report["models"]["ranker1"]["all"]
    difference = every["differences"]["gauc_page_mean"]
    assert runs[2].split() == [
        *("ranker1", "none", f"{every['auc']:.4f}", f"{every['gauc_page_mean']:.4f}", "nan"),  # all items are seen
        *(f"{every['log_loss']:.4f}", f"{every['copc']:.3f}", f"{difference['difference']:+.4f}"),
        *(f"[{difference['low']:+.4f},", f"{difference['high']:+.4f}]"),
    ]
    assert table.endswith("notice: simulated")
