import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import Window
from models import evaluate
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import Pages, parse_pages
from models.evaluation.measure import measure
from models.evaluation.scored_pages import score_pages
from models.metrics.copc import COPC
from models.metrics.gauc import GAUC
from tests.models.tiny_dataset import write_tiny_dataset
from tests.models.untrained_run import untrained_ranker, write_untrained_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=60, pages=120)


@pytest.fixture(scope="module")
def dataset(tiny):
    return Dataset(tiny.data)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return write_untrained_run(tmp_path_factory.mktemp("runs") / "none", tiny.data)


@pytest.fixture(scope="module")
def ranker(tiny, dataset):
    return untrained_ranker(dataset, Clusters.load(tiny.clusters), seed=1)


def test_rankers_in_memory_beside_runs(dataset, run, ranker, tmp_path, capsys):
    report = evaluate(dataset, {"clusters": ranker, "plain": run}, output=tmp_path / "report")
    assert report == json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert {
        name: (model["run"], model["image_feature"], model["seed"]) for name, model in report["models"].items()
    } == {
        "clusters": (None, "cluster_id", None),
        "none": (str(run.path), "none", 0),
    }
    assert list(report["systems"]) == ["clusters", "plain"]
    assert report["models"]["clusters"]["unseen_items"] != report["models"]["clusters"]["all"]
    for name in ("clusters", "none"):
        table = pq.read_table(tmp_path / "report" / "predictions" / f"{name}.parquet")
        assert report["models"][name]["all"]["copc"] == pytest.approx(
            np.sum(table["clicked"].to_numpy()) / np.sum(table["ctr"].to_numpy(), dtype=float)
        )
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")  # a library shows nothing unless it is asked to


def test_some_pages(dataset, ranker):
    pages = dataset.pages("train").split(0.8)[1]
    report = evaluate(pages, ranker, batch_size=7)
    assert (report["split"], report["pages"], report["users"]) == ("train", len(pages), report["users"])
    batches = pages.records().batch(1000).map(lambda records: parse_pages(records, pages.lengths()))
    expected = measure(score_pages(ranker, batches))
    found = report["models"][ranker.name]["all"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert report["models"][ranker.name]["unseen_items"]["candidates"] == 0  # all are on train pages


def test_pages_of_one_class_are_reported_with_a_warning(dataset, run, tmp_path):
    pages = dataset.pages("test")
    parsed = next(iter(pages.records().batch(1000).map(lambda records: parse_pages(records, pages.lengths()))))
    moment = int(parsed["timestamp"][(parsed["clicked"].numpy() != 1).all(axis=1).argmax()])
    some = Pages(dataset, "test", Window(first=moment, last=moment))
    with pytest.warns(UserWarning, match="of the 1 test pages are all unclicked: AUC and GAUC are undefined"):
        report = evaluate(some, run, output=tmp_path / "report")
    (measured,) = report["models"].values()
    assert (measured["all"]["auc"], measured["all"]["gauc_page_mean"]) == (None, None)
    assert measured["all"]["log_loss"] > 0
    assert json.loads((tmp_path / "report" / "metrics.json").read_text(), parse_constant=pytest.fail) == report
    assert "nan" in (tmp_path / "report" / "table.txt").read_text()


def test_keras_metrics_are_those_of_reports(dataset, ranker):
    pages = dataset.pages("test")
    by_size = GAUC("impressions", name="by_size")
    ranker.compile(metrics=[GAUC(), by_size, COPC()])
    measured = ranker.evaluate(pages.batches(16), return_dict=True, verbose=0)
    reported = evaluate(pages, ranker)["models"][ranker.name]["all"]
    names = {"gauc": "gauc_page_mean", "by_size": "gauc_page_impressions", "copc": "copc"}
    assert {name: measured[name] for name in names} == pytest.approx(
        {name: reported[metric] for name, metric in names.items()}, rel=1e-5
    )


def test_an_output_that_exists_is_refused_before_any_work(tiny, run, tmp_path):
    (tmp_path / "report").mkdir()
    with pytest.raises(ArtifactError, match="report exists; pass `overwrite=True` to replace it"):
        evaluate(tiny.data, run.path, output=tmp_path / "report")
    with pytest.raises(ArtifactError, match=r"holds .*none, which is read"):
        evaluate(tiny.data, run.path, output=run.path.parent, overwrite=True)


def test_errors_name_the_argument(tiny, run, ranker, tmp_path):
    with pytest.raises(InputError, match=r"^`models`: the same run twice: "):
        evaluate(tiny.data, [run, str(run.path)])
    with pytest.raises(ArtifactError, match="has no pages in split `nothing`"):
        evaluate(tiny.data, run, split="nothing")
    weights = ranker.trainable_variables[-1]
    before = weights.numpy()
    weights.assign(np.full_like(before, np.nan))
    try:
        with pytest.raises(ArtifactError, match=r"^`models`: mine gives NaN for ctr .*train it again"):
            evaluate(tiny.data, {"mine": ranker}, output=tmp_path / "report")
    finally:
        weights.assign(before)
    assert not (tmp_path / "report").exists()
