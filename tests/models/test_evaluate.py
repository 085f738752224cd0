import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_pipelines.shell.command import CommandError
from models.data.dataset import Dataset
from models.data.pages import PageLengths, page_batches
from models.evaluate import main
from models.metrics.auc import auc, group_auc, page_auc
from models.metrics.log_loss import log_loss
from tests.models.tiny_dataset import write_tiny_dataset
from tests.models.untrained_run import write_untrained_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=60, pages=180)


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_untrained_run(root / "none", tiny.data)
    write_untrained_run(root / "cluster_id", tiny.data, tiny.clusters)
    return root


@pytest.fixture(scope="module")
def report(tiny, runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluate") / "report"
    models = [str(runs / "none"), str(runs / "cluster_id")]
    line = main(["--data", str(tiny.data), "--model", *models, "--output", str(output)])
    assert line == f"wrote the report on 2 models and 60 test pages to {output}"
    return output


def test_figures_are_those_of_the_predictions(report):
    metrics = json.loads((report / "metrics.json").read_text())
    assert (metrics["split"], metrics["pages"]) == ("test", 60)
    for name in ("none", "cluster_id"):
        table = pq.read_table(report / "predictions" / f"{name}.parquet")
        ctr, clicked, unseen = (table[column].to_numpy() for column in ("ctr", "clicked", "unseen_item"))
        page_id, item_id, user_id = (
            np.array(table[column].to_pylist()) for column in ("page_id", "item_id", "user_id")
        )
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
            users = group_auc(ctr[chosen], clicked[chosen], np.unique(user_id, return_inverse=True)[1][chosen])
            assert figures["gauc_user_mean"] == pytest.approx(users.mean())
            assert figures["gauc_user_impressions"] == pytest.approx(users.mean_by_impressions())
            assert figures["copc"] == pytest.approx(clicked[chosen].sum() / ctr[chosen].sum())
            low, high = figures["intervals"]["gauc_page_mean"]
            assert low <= figures["gauc_page_mean"] <= high
    assert metrics["models"]["none"]["all"]["candidates"] > 2 * 60


def test_the_table_has_a_row_per_model_and_the_notice(report, tiny, runs, tmp_path, capsys):
    table = (report / "table.txt").read_text()
    lines = table.splitlines()
    metrics = json.loads((report / "metrics.json").read_text())["models"]
    assert lines[0].split("  ")[0] == "model"
    for line, name in zip(lines[1:3], ("none", "cluster_id"), strict=True):
        every, unseen = metrics[name]["all"], metrics[name]["unseen_items"]
        figures = every["auc"], every["gauc_page_mean"], unseen["gauc_page_mean"], every["log_loss"]
        cells = [name, name, *(f"{figure:.4f}" for figure in figures), f"{every['copc']:.3f}"]
        if name == "cluster_id":
            difference = every["differences"]["gauc_page_mean"]
            assert difference["difference"] == pytest.approx(
                metrics["cluster_id"]["all"]["gauc_page_mean"] - metrics["none"]["all"]["gauc_page_mean"]
            )
            cells += "{difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(**difference).split()
        assert line.split() == cells
    assert len({len(line) for line in lines[:3]}) == 1
    assert max(map(len, lines)) < 120
    assert "notice: simulated for a test" in table
    other = shutil.copytree(report, tmp_path / "report")
    arguments = ["--data", str(tiny.data), "--model", str(runs / "none"), "--output", str(other), "--overwrite"]
    main([*arguments, "--split", "train"])
    printed = capsys.readouterr().out
    assert "train pages: 180" in printed
    assert "notice: simulated for a test" in printed
    assert "GAUC unseen" in printed
    assert "nan" in printed  # no item of a training page is unseen
    assert json.loads((other / "metrics.json").read_text())["models"]["none"]["unseen_items"]["auc"] is None


def test_slices_are_those_of_the_whole_records(report, tiny):
    slices = json.loads((report / "metrics.json").read_text())["slices"]
    assert list(slices) == ["training", "category", "click history", "position"]  # items have no date
    counts = {title: {} for title in slices}
    lengths = PageLengths(candidates=6, click=1000, pay=0, cart=0)
    for page in page_batches(Dataset(tiny.data), "test", lengths, batch_size=7).as_numpy_iterator():
        for items, steps, positions in zip(page["item"], page["click_item"], page["position"], strict=True):
            history = int((steps != -1).sum())
            for item, position in zip(items[items != -1], positions, strict=False):
                kinds = {
                    "training": "unseen in training" if item >= 48 else "seen in training",
                    "category": ["dress", "shirt", "shoe", "(none)"][item % 4],
                    "click history": ["0", "1", "2-3", "4-7", "8-15", "16-31", "32-63"][history.bit_length()],
                    "position": ["0", "1", "2-3", "2-3", "4-7", "4-7"][position],
                }
                for title, value in kinds.items():
                    counts[title][value] = counts[title].get(value, 0) + 1
    for title, found in slices.items():
        assert {each["value"]: each["candidates"] for each in found} == counts[title]
    assert len(counts["click history"]) > 3


def test_the_page_is_of_these_figures(report):
    page = (report / "report.html").read_text()
    metrics = json.loads((report / "metrics.json").read_text())
    assert "simulated for a test" in page
    for name in ("none", "cluster_id"):
        assert f"{metrics['models'][name]['all']['auc']:.4f}" in page


def test_runs_are_averaged(tiny, runs, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(runs / "none", again)
    metadata = json.loads((again / "metadata.json").read_text()) | {"seed": 1}
    (again / "metadata.json").write_text(json.dumps(metadata))
    np.save(again / "training_counts.npy", np.arange(60))  # it has seen all items but the first
    models = [f"both={runs / 'none'}", str(again), f"both={runs / 'cluster_id'}"]
    main(["--data", str(tiny.data), "--model", *models, "--output", str(tmp_path / "report")])
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    systems, single = metrics["systems"], metrics["models"]
    assert {name: system["models"] for name, system in systems.items()} == {
        "both": ["none", "cluster_id"],
        "again": ["again"],
    }
    mean = (single["none"]["all"]["auc"] + single["cluster_id"]["all"]["auc"]) / 2
    assert systems["both"]["all"]["auc"] == pytest.approx(mean)
    assert single["none"]["unseen_items"]["candidates"] == 0  # only what nobody has seen is unseen
    assert "mean over runs" in (tmp_path / "report" / "table.txt").read_text()
    assert "Means over runs" in (tmp_path / "report" / "report.html").read_text()


def test_what_does_not_belong_together_is_refused(tiny, runs, tmp_path):
    def refused(message, *models, data=tiny.data, options=()):
        output = tmp_path / "report"
        with pytest.raises(CommandError, match=message):
            main(["--data", str(data), "--model", *map(str, models), "--output", str(output), *options])
        assert not output.exists()

    other = write_tiny_dataset(tmp_path / "other", items=30, pages=12)
    refused("--model: .*none was trained on another dataset than .* item table differs", runs / "none", data=other.data)
    refused("--model: .*nowhere has no metadata.json; models.train_ctr makes it", tmp_path / "nowhere")
    refused("--model: .* of kind `ranker`", tiny.clusters)
    refused("--model: the same run twice", runs / "none", runs / "none")
    refused("--model: two systems have the name none", f"none={runs / 'cluster_id'}", runs / "none")
    refused("--model: .*nowhere has no metadata.json", f"name={tmp_path / 'nowhere'}")
    other_users = tmp_path / "other_users"
    shutil.copytree(runs / "none", other_users)
    metadata = json.loads((other_users / "metadata.json").read_text()) | {"user_ids_sha256": "0"}
    (other_users / "metadata.json").write_text(json.dumps(metadata))
    refused("user table differs", other_users)
    incomplete = tmp_path / "incomplete"
    shutil.copytree(runs / "none", incomplete)
    (incomplete / "config.yaml").unlink()
    refused("--model: .*incomplete has no config.yaml; train the ranker again", incomplete)


def test_log_loss_on_sampled_pages_stands_for_all_candidates(runs, tmp_path):
    sampled = write_tiny_dataset(tmp_path / "sampled", items=60, pages=180, train_negatives=0.5)
    arguments = ["--data", str(sampled.data), "--model", str(runs / "none"), "--output", str(tmp_path / "report")]
    main([*arguments, "--split", "train"])
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())["models"]["none"]["all"]
    table = pq.read_table(tmp_path / "report" / "predictions" / "none.parquet")
    ctr, clicked = (table[column].to_numpy() for column in ("ctr", "clicked"))
    assert figures["log_loss"] == pytest.approx(log_loss(ctr, clicked, 0.5))
    assert figures["log_loss"] != pytest.approx(log_loss(ctr, clicked), rel=1e-3)
