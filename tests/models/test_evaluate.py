import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_pipelines.command import CommandError
from models import evaluate, train_ctr
from models.metrics.auc import auc, page_auc
from models.metrics.log_loss import log_loss
from tests.models.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=60, pages=180)


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name in ("none", "cluster_id"):
        paths = ["--data", tiny.data, "--clusters", tiny.clusters, "--output", root / name, "--image-feature", name]
        # Reads two candidates of a page at training, and must still score all of them in evaluation.
        options = ["--set", "epochs=1", "--set", "ranker.lengths.candidates=2", "--set", "ranker.mlp_units=[8, 8]"]
        train_ctr.main([*map(str, paths), *options])
    return root


@pytest.fixture(scope="module")
def report(tiny, runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluate") / "report"
    models = [str(runs / "none"), str(runs / "cluster_id")]
    line = evaluate.main(["--data", str(tiny.data), "--model", *models, "--output", str(output)])
    assert line == f"wrote the report on 2 models and 60 test pages to {output}"
    return output


def test_figures_are_those_of_the_predictions(report):
    metrics = json.loads((report / "metrics.json").read_text())
    assert (metrics["split"], metrics["pages"]) == ("test", 60)
    for name in ("none", "cluster_id"):
        table = pq.read_table(report / "predictions" / f"{name}.parquet")
        ctr, clicked, unseen = (table[column].to_numpy() for column in ("ctr", "clicked", "unseen_item"))
        page_id, item_id = (np.array(table[column].to_pylist()) for column in ("page_id", "item_id"))
        assert len(np.unique(page_id)) == 60
        np.testing.assert_array_equal(unseen, item_id >= "item00048")  # the last fifth is on no training page
        for part, chosen in (("all", np.ones(len(ctr), bool)), ("unseen_items", unseen)):
            figures = metrics["models"][name][part]
            pages = page_auc(ctr[chosen], clicked[chosen], np.unique(page_id, return_inverse=True)[1][chosen])
            assert figures["auc"] == pytest.approx(auc(ctr[chosen], clicked[chosen]))
            assert figures["log_loss"] == pytest.approx(log_loss(ctr[chosen], clicked[chosen]))
            assert figures["gauc_page_mean"] == pytest.approx(pages.gauc_page_mean)
            assert figures["pages"] == pages.pages
            assert figures["candidates"] == chosen.sum()
    assert metrics["models"]["none"]["all"]["candidates"] > 2 * 60


def test_the_table_has_a_row_per_model_and_the_notice(report, tiny, runs, capsys):
    table = (report / "table.txt").read_text()
    lines = table.splitlines()
    metrics = json.loads((report / "metrics.json").read_text())["models"]
    assert lines[0].split("  ")[0] == "model"
    for line, name in zip(lines[1:3], ("none", "cluster_id"), strict=True):
        every, unseen = metrics[name]["all"], metrics[name]["unseen_items"]
        figures = every["auc"], every["gauc_page_mean"], unseen["gauc_page_mean"], every["log_loss"]
        assert line.split() == [name, name, *(f"{figure:.4f}" for figure in figures)]
    assert len({len(line) for line in lines[:3]}) == 1
    assert "notice: simulated for a test" in table
    arguments = ["--data", str(tiny.data), "--model", str(runs / "none"), "--output", str(report), "--overwrite"]
    evaluate.main([*arguments, "--split", "train"])
    printed = capsys.readouterr().out
    assert "train pages: 180" in printed
    assert "notice: simulated for a test" in printed
    assert "GAUC unseen" in printed
    assert "nan" in printed  # no item of a training page is unseen
    assert json.loads((report / "metrics.json").read_text())["models"]["none"]["unseen_items"]["auc"] is None


def test_what_does_not_belong_together_is_refused(tiny, runs, tmp_path):
    def refused(message, *models, data=tiny.data, options=()):
        output = tmp_path / "report"
        with pytest.raises(CommandError, match=message):
            evaluate.main(["--data", str(data), "--model", *map(str, models), "--output", str(output), *options])
        assert not output.exists()

    other = write_tiny_dataset(tmp_path / "other", items=30, pages=12)
    refused("--model: .*none was trained on another dataset than .* item table differs", runs / "none", data=other.data)
    refused("--model: .*nowhere has no metadata.json; models.train_ctr makes it", tmp_path / "nowhere")
    refused("--model: .* of kind `ranker`", tiny.clusters)
    refused("--model: the same run twice", runs / "none", runs / "none")
    other_users = tmp_path / "other_users"
    shutil.copytree(runs / "none", other_users)
    metadata = json.loads((other_users / "metadata.json").read_text()) | {"user_ids_sha256": "0"}
    (other_users / "metadata.json").write_text(json.dumps(metadata))
    refused("user table differs", other_users)


def test_log_loss_on_sampled_pages_stands_for_all_candidates(runs, tmp_path):
    sampled = write_tiny_dataset(tmp_path / "sampled", items=60, pages=180, train_negatives=0.5)
    arguments = ["--data", str(sampled.data), "--model", str(runs / "none"), "--output", str(tmp_path / "report")]
    evaluate.main([*arguments, "--split", "train"])
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())["models"]["none"]["all"]
    table = pq.read_table(tmp_path / "report" / "predictions" / "none.parquet")
    ctr, clicked = (table[column].to_numpy() for column in ("ctr", "clicked"))
    assert figures["log_loss"] == pytest.approx(log_loss(ctr, clicked, 0.5))
    assert figures["log_loss"] != pytest.approx(log_loss(ctr, clicked), rel=1e-3)
