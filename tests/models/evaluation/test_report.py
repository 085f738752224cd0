import time

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
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


def with_tasks(each, known):
    converted = np.where(known, each.converted, -1)
    return each._replace(converted=converted, ctcvr=each.ctr**2, long_visit=each.ctr**3, long_visit_seconds=7.0)


def test_a_task_is_measured_and_compared_as_the_click_is():
    measured = scored(pages=300)
    known = np.arange(len(measured["ranker0"].ctr)) % 3 > 0
    measured = {name: with_tasks(each, known) for name, each in measured.items()}
    unseen, systems = measured["ranker0"].item > 30, {"a": [0], "b": [1]}
    kinds = [by_count("item", measured["ranker0"].item)]
    tasks = evaluation_report(measured, unseen, kinds, systems, 1.0)["tasks"]
    tasks = finite(tasks)
    for task, rows in (("ctcvr", known), ("long_visit", np.ones(len(known), bool))):
        # The same as if what the task predicts were a click, on pages of the candidates that are known.
        as_click = {}
        for name, each in measured.items():
            happened, predicted = each.outcome(task)[0], getattr(each, task)
            none = {"ctcvr": None, "long_visit": None}
            as_click[name] = each._replace(clicked=happened, ctr=predicted, **none).select(rows)
        kind = kinds[0]._replace(number=kinds[0].number[rows])
        expected = finite(evaluation_report(as_click, unseen[rows], [kind], systems, 1.0))
        assert expected["tasks"] == {}
        for name, model in tasks[task]["models"].items():
            for part in ("all", "unseen_items"):
                figures = expected["models"][name][part]
                flat = {key: value for key, value in model[part].items() if not isinstance(value, dict)}
                assert flat == pytest.approx({key: figures[key] for key in flat}, rel=1e-6)
                assert model[part]["intervals"] == figures["intervals"]
        assert tasks[task]["slices"] == expected["slices"]
        for name, system in tasks[task]["systems"].items():
            assert system == {key: expected["systems"][name][key] for key in system}
        assert tasks[task]["systems"]["b"]["all"]["differences"]["auc"]["low"] > 0


def test_rankers_without_a_task_are_left_out_of_it():
    measured = scored(pages=100, noises=(1.0, 0.3, 0.9))
    known = np.ones(len(measured["ranker0"].ctr), bool)
    some = {name: with_tasks(each, known) if name != "ranker0" else each for name, each in measured.items()}
    unseen = np.zeros(len(known), bool)
    task = evaluation_report(some, unseen, [], {"a": [0], "b": [1], "c": [2]}, 1.0)["tasks"]["ctcvr"]
    assert list(task["models"]) == ["ranker1", "ranker2"]
    assert list(task["systems"]) == ["b", "c"]
    assert "differences" not in task["systems"]["b"]["all"]
    mixed = evaluation_report(some, unseen, [], {"a": [0, 1], "b": [2]}, 1.0)["tasks"]["ctcvr"]
    assert list(mixed["systems"]) == ["b"]
    some["ranker2"] = some["ranker2"]._replace(long_visit_seconds=3.0)
    with pytest.raises(InputError, match="must mean the same by long_visit"):
        evaluation_report(some, unseen, [], {"a": [0], "b": [1], "c": [2]}, 1.0)
