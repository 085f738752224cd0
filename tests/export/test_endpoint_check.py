import json
import shutil

import pytest

from beam_pipelines.shell.command import CommandError
from export import endpoint_check
from export.gates.skew import has_tables_of, logged_pages
from models.data.dataset import Dataset
from models.ranker.run import RANKER_FILE, RankerRun


def check(run, base_path, *options):
    return endpoint_check.main(["--model", str(run), "--base-path", str(base_path), *options])


def test_a_difference_fails_and_writes_nothing(toy_run, toy_base_path, tmp_path):
    run = shutil.copytree(toy_run.path, tmp_path / "run")
    ranker = RankerRun(run).ranker()
    ranker.members[0].heads["ctr"].bias.assign(ranker.members[0].heads["ctr"].bias + 1e-4)
    ranker.save(run / RANKER_FILE)
    with pytest.raises(CommandError, match="the endpoint differs by"):
        check(run, toy_base_path, "--output", str(tmp_path / "check.json"))
    assert not (tmp_path / "check.json").exists()


def test_what_does_not_fit_is_refused_before_a_server_starts(toy_run, toy_base_path, tmp_path):
    with pytest.raises(CommandError, match="--base-path: no version under"):
        check(toy_run.path, tmp_path)
    with pytest.raises(CommandError, match="--base-path: no directory"):
        check(toy_run.path, tmp_path / "none")
    run = shutil.copytree(toy_run.path, tmp_path / "run")
    metadata = json.loads((run / "metadata.json").read_text())
    (run / "metadata.json").write_text(json.dumps({**metadata, "seed": 1}))
    with pytest.raises(CommandError, match="was made from another ranker"):
        check(run, toy_base_path)


def test_a_trained_ranker_goes_all_the_way(published_sample, tmp_path, capsys):
    run, base_path = published_sample / "ranker", published_sample / "serving"
    data = Dataset(published_sample / "dataset")
    splits = data.manifest.splits
    assert has_tables_of(data.path, run)
    logged = logged_pages(data, RankerRun(run), 1000)
    assert len(logged.records) == splits["test"].pages > 20
    assert logged.source == f"test pages of {data.path}"
    assert len(logged_pages(data, RankerRun(run), 20).records) == 20
    card = json.loads((base_path / "1/assets.extra/model_card.json").read_text())
    assert card["data"]["pages"] == splits["train"].pages
    output = tmp_path / "new" / "check.json"
    assert "answers like" in check(run, base_path, "--output", str(output))
    printed = capsys.readouterr().out
    result = json.loads(output.read_text())
    assert result["version"] == 1
    assert result["largest_difference"] <= 1e-6
    assert set(result["scores"]) == {"gRPC", "REST", "gRPC tf_example", "in process"}
    candidates = result["page"]["item_id"]
    assert all(len(scores) == len(candidates) > 0 for scores in result["scores"].values())
    assert all(item in printed for item in candidates)
    assert "simulated" in result["notice"]
    assert result["notice"] in printed
    assert [path.name for path in output.parent.iterdir()] == ["check.json"]
