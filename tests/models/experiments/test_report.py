import json
import re

import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from models import Arm, Experiment, experiment_report
from tests.models.experiments.shop import EXPERIMENT, Shop, simulate, write_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop whose treatment doubles the clicks, and an experiment of equal arms on the same pages."""
    folder = tmp_path_factory.mktemp("shop")
    happened = simulate(300, 6, 6)
    treated = np.array([EXPERIMENT.arm(f"b{user:04d}").name == "pictures" for user in happened.user])
    more = np.where(treated & (happened.day >= 0), np.minimum(2 * happened.clicks, 4), happened.clicks)
    return write_shop(folder, happened._replace(clicks=more, orders=np.minimum(happened.orders, more)))


@pytest.fixture(scope="module")
def report(shop, tmp_path_factory):
    output = tmp_path_factory.mktemp("report") / "out"
    logs, exposures = shop
    found = experiment_report(
        logs, [exposures], EXPERIMENT, output=output, value="stat_price", planned_days=8, bootstrap=True, aa_splits=50
    )
    return found, output


def test_an_effect_is_found_and_only_where_it_is(report):
    found, output = report
    ctr, orders = (found["metrics"][name]["comparisons"]["pictures"] for name in ("ctr", "orders_per_user"))
    assert (ctr["verdict"], orders["verdict"]) == ("higher", "not told apart")
    assert 0.4 < ctr["lift"]["low"] < ctr["lift"]["value"] < ctr["lift"]["high"] < 1.2
    assert ctr["difference"]["low_of_all"] < ctr["difference"]["low"]
    assert orders["p_holm"] >= orders["p"]
    assert ctr["users"]["control"] + ctr["users"]["treatment"] == found["users"] == 300
    assert json.loads((output / "report.json").read_text()) == found


def test_the_bootstrap_and_the_delta_method_agree(report):
    each = report[0]["metrics"]["ctr"]["comparisons"]["pictures"]
    for end in ("value", "low", "high"):
        assert each["bootstrap"][end] == pytest.approx(each["unadjusted"]["difference"][end], abs=0.01)
    assert each["variance_left"] < 0.9
    assert each["difference"]["error"] < each["unadjusted"]["difference"]["error"]


def test_the_last_look_is_the_report(report):
    sequential = report[0]["sequential"]
    assert (sequential["days"], sequential["planned_days"]) == (6, 8)
    assert sequential["error_of_each"] == pytest.approx(0.05 / 4)
    looks = sequential["metrics"]["ctr"]["pictures"]["looks"]
    difference = report[0]["metrics"]["ctr"]["comparisons"]["pictures"]["difference"]
    assert looks[-1]["difference"] == pytest.approx(difference["value"])
    assert looks[-1]["low"] < difference["low_of_all"]
    assert [look["bound"] for look in looks] == sorted((look["bound"] for look in looks), reverse=True)


def test_table_and_page_say_it(report):
    found, output = report
    table, page = (output / "table.txt").read_text(), (output / "report.html").read_text()
    assert re.search(r"^sample ratio: as planned \(p 0\.\d+, bound 0\.0005\)$", table, re.MULTILINE)
    assert re.search(r"^ctr +pictures +higher ", table, re.MULTILINE)
    assert re.search(r"^A/A, ctr: \d+ of 50 random splits have p < 5 % \(0 to \d+ expected\)", table, re.MULTILINE)
    assert "bound crossed on day" in table
    for text in ("Sample ratio", "Differences", "Looks", "What was read", "<svg", "default-src 'none'"):
        assert text in page
    assert found["counts"]["exposed_pages"] == found["counts"]["exposed_pages_in_logs"]


def test_a_wrong_sample_ratio_comes_first_and_stops_all_verdicts(shop):
    logs, exposures = shop
    skewed = Experiment("pictures", (Arm("control", 4), Arm("pictures", 6)))
    found = experiment_report(logs, [exposures], skewed)
    assert not found["sample_ratio"]["passed"]
    assert {each["comparisons"]["pictures"]["verdict"] for each in found["metrics"].values()} == {"not judged"}


def test_several_treatments_share_the_error(tmp_path):
    experiment = Experiment("three", (Arm("control"), Arm("b"), Arm("<i>c")))
    logs, exposures = write_shop(tmp_path, simulate(150, 3, 3), experiment)
    found = experiment_report(
        logs, [exposures], experiment, metrics=["ctr"], before_days=0, planned_days=3, output=tmp_path / "out"
    )
    assert [*found["metrics"]["ctr"]["comparisons"]] == ["b", "<i>c"]
    assert found["sequential"]["error_of_each"] == pytest.approx(0.05 / 2)
    assert found["adjusted_for"] == []
    page = (tmp_path / "out/report.html").read_text()
    assert "&lt;i&gt;c" in page
    assert "<i>c" not in page
    ps = [found["metrics"]["ctr"]["comparisons"][arm] for arm in ("b", "<i>c")]
    assert min(each["p_holm"] for each in ps) == pytest.approx(min(1, 2 * min(each["p"] for each in ps)))


def test_users_who_come_after_the_planned_end_are_left_out(tmp_path):
    users = np.arange(40)
    late = Shop(users, np.where(users < 30, 0, 4), users % 4, users % 2)
    logs, exposures = write_shop(tmp_path, late)
    found = experiment_report(logs, [exposures], EXPERIMENT, planned_days=2)
    assert (found["users"], found["counts"]["users_after_the_plan"]) == (30, 10)


def test_arguments_and_outputs_are_checked(shop, report, tmp_path):
    logs, exposures = shop
    for options, text in (
        ({"before_days": -1}, "`before_days` must be at least 0. Received: -1"),
        ({"planned_days": 0}, "`planned_days` must be at least 1. Received: 0"),
        ({"metrics": ["gauc"]}, "`metrics` must be of ctr"),
    ):
        with pytest.raises(InputError, match=re.escape(text)):
            experiment_report(logs, [exposures], EXPERIMENT, **options)
    with pytest.raises(ArtifactError, match="exists"):
        experiment_report(logs, [exposures], EXPERIMENT, output=report[1])
