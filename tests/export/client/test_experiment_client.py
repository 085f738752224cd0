import json

import pytest

from export import ExperimentClient, Page
from export.client.predict_client import RankerNotFound, RequestRefused
from models import Arm, Experiment

EXPERIMENT = Experiment("pictures", (Arm("control", version=11), Arm("pictures", version=99)), "search", (0, 0.9))


def user_of(arm):
    return next(f"u{n}" for n in range(999) if (EXPERIMENT.arm(f"u{n}") or Arm("none")).name == arm)


def page_of(arm, rows, **changes):
    return Page.from_row({**rows[1], "user_id": user_of(arm), "page_id": f"page of {arm}", **changes})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_users_get_the_version_of_their_arm_and_every_page_is_logged(address, rows, ranker_client, tmp_path):
    log = tmp_path / "exposures.jsonl"
    with ExperimentClient(address, EXPERIMENT, log) as client:
        page = page_of("control", rows)
        assert client.rank(page) == ranker_client.rank(page)
        assert (client.arm.name, client.version) == ("control", 11)
        with pytest.raises(RankerNotFound, match=r"Specific\(ranker, 99\)"):
            client.rank(page_of("pictures", rows))
        client.rank(page_of("none", rows))
        assert (client.arm, client.version) == (None, 11)
    shown = {"experiment": "pictures", "timestamp": rows[1]["timestamp"]}
    control = {"arm": "control", "user_id": user_of("control"), "page_id": "page of control", "version": 11}
    failed = {"arm": "pictures", "user_id": user_of("pictures"), "page_id": "page of pictures", "version": None}
    assert lines(log) == [shown | control, shown | failed]


def test_an_arm_may_be_a_label(address, rows, tmp_path):
    arms = [{"name": "control", "label": "stable"}, {"name": "pictures", "label": "canary"}]
    (tmp_path / "e.json").write_text(json.dumps({"name": "labels", "arms": arms}))
    with ExperimentClient(address, tmp_path / "e.json", tmp_path / "log") as client:
        for user, label in (("anna", "stable"), ("carl", "canary")):
            user = next(f"{user}{n}" for n in range(99) if client.experiment.arm(f"{user}{n}").label == label)
            with pytest.raises(RequestRefused, match=f"Unrecognized servable version label: {label}"):
                client.rank(Page.from_row({**rows[1], "user_id": user}))
    assert {line["arm"] for line in lines(tmp_path / "log")} == {"control", "pictures"}
