import json

import numpy as np
import pytest

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError
from export.version.inputs import request_inputs
from export.version.model_card import CARD_JSON, CARD_MARKDOWN, model_card, read_report, write_card
from models.evaluation.report import evaluation_report
from models.evaluation.scored_pages import ScoredPages
from models.evaluation.slices import by_flag
from models.ranker.run import RANKER_FILE


@pytest.fixture(scope="module")
def metadata(toy_run):
    return toy_run.metadata


def write_report(path, digests, systems):
    """A report on rankers that score at random, and what is measured of the first."""
    random = np.random.default_rng(0)
    page = np.repeat(np.arange(40), 5)
    one = ScoredPages(
        page_ids=np.array([b"p%d" % n for n in range(40)]),
        page=page,
        user=page % 7,
        timestamp=np.full(200, 5),
        item=random.integers(0, 9, 200),
        position=np.arange(200) % 5,
        clicked=random.random(200) < 0.3,
        converted=np.zeros(200, np.int64),
        dwell_label=np.zeros(200, np.float32),
        ctr=random.random(200, np.float32),
    )
    scores = {name: one._replace(ctr=random.random(200, np.float32)) for name in digests}
    slices = [by_flag("day | night", ("day", "night"), one.position > 2)]
    measured = evaluation_report(scores, one.item == 0, slices, systems, 1.0)
    for name, digest in digests.items():
        measured["models"][name]["digest"] = digest
    report = {"split": "test", "data": "d", "dataset_digest": "toy", "notice": "toy notice", **measured}
    path.mkdir()
    (path / "metrics.json").write_text(json.dumps(report))
    return measured


def test_a_card_says_what_is_on_disk(toy_run, metadata, tmp_path):
    digests = {"other": "0" * 64, "mine": metadata.digest()}
    measured = write_report(tmp_path / "report", digests, {"other": [0], "mine": [1]})
    report = read_report(tmp_path / "report", toy_run)
    ranker = toy_run.ranker()
    inputs = request_inputs(ranker)
    write_card(tmp_path, model_card(toy_run, ranker, inputs, None, report))
    card = json.loads((tmp_path / CARD_JSON).read_text(), parse_constant=pytest.fail)
    text = (tmp_path / CARD_MARKDOWN).read_text()

    mine = measured["models"]["mine"]["all"]
    assert card["report"]["all"]["metrics"]["auc"] == mine["auc"]
    assert card["report"]["all"]["intervals"]["auc"] == mine["intervals"]["auc"]
    assert [each["value"] for each in card["report"]["slices"]["day | night"]] == ["day", "night"]
    assert "{:.4f} [{:.4f}, {:.4f}]".format(mine["auc"], *mine["intervals"]["auc"]) in text
    assert "day \\| night" in text
    assert card["digests"]["ranker_weights"] == file_sha256(toy_run.path / RANKER_FILE)
    assert card["digests"]["dataset"] == metadata.dataset_digest
    assert all(digest in text for digest in card["digests"].values())
    assert card["data"]["train"]["first_ms"] == metadata.window.first
    assert {each["name"] for each in card["inputs"]} == inputs.keys()
    assert {each["name"] for each in card["inputs"] if each["of_new_items"]} == {
        "category",
        "title",
        "stat_price",
        "cluster_id",
    }
    assert card["table_features"]["items"]["category"] == "category, 2 known values"
    (price,) = [each for each in card["numbers"] if each["name"] == "stat_price"]
    scale = ranker.vocabulary.item["stat_price"]
    assert price == {"of": "item", "name": "stat_price", "clipped": 0, "missing": 0, "seen": 30} | {
        key: getattr(scale, key) for key in ("low", "high", "mean", "deviation")
    }
    assert f"| item | `stat_price` | {scale.low:.6g} | {scale.high:.6g} |" in text
    assert any("magnitude of 1e+36 or more" in limit for limit in card["limits"])
    assert "toy notice" in text
    assert "toy notice" in card["limits"][0]


def test_a_card_without_a_report_claims_nothing(toy_base_path):
    extra = toy_base_path / "11"
    card = json.loads((extra / CARD_JSON).read_text())
    assert card["report"] is None
    assert "pages" not in card["data"]  # of a dataset that is not at hand
    assert "No report was given" in (extra / CARD_MARKDOWN).read_text()


def test_seeds_that_were_averaged_have_no_slices_of_their_own(toy_run, metadata, tmp_path):
    write_report(tmp_path / "report", {"mine": metadata.digest(), "again": "1" * 64}, {"both": [0, 1]})
    assert read_report(tmp_path / "report", toy_run)["slices"] == {}


def test_a_report_of_other_rankers_is_refused(toy_run, metadata, tmp_path):
    write_report(tmp_path / "report", {"other": "0" * 64}, {"other": [0]})
    with pytest.raises(ArtifactError, match=r"metrics.json does not measure .* as it is now"):
        read_report(tmp_path / "report", toy_run)
    for file in (tmp_path / "none", tmp_path / "list.json", tmp_path / "text.json"):
        (tmp_path / "list.json").write_text("[]")
        (tmp_path / "text.json").write_text("{")
        with pytest.raises(ArtifactError, match=r" is no report; models.evaluate makes it"):
            read_report(file, toy_run)
