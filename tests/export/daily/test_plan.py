import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from beam_pipelines.format.errors import InputError
from export.daily import STEPS
from export.daily.day_check import DayRefusedError
from export.daily.html import PAGE_FILE
from export.daily.ledger import LEDGER_FILE, Ledger
from export.daily.plan import run_day
from export.daily.state import StateDirectory
from export.version.base_path import published_versions
from models.data.dataset import Dataset
from models.ranker.run import RankerRun
from tests.browser import check_self_contained
from tests.export.daily.conftest import day, options_at


@pytest.fixture(scope="module")
def worked(shop, tmp_path_factory):
    """A state after two days: on the first a version is published, on the second its candidate is not.

    The first day ends in the middle and is taken up again. What it learns is made bad on purpose.
    """
    at = tmp_path_factory.mktemp("daily")
    options = options_at(shop, at, training=("learning_rate=0.5", "calibration=none"))
    assert run_day(shop.logs(0), day(0), at / "state", options, until="assign") is None
    before = {path: path.stat().st_mtime_ns for path in (at / "state" / "days").rglob("*") if path.is_file()}
    assert not (at / "state" / LEDGER_FILE).exists()
    first = run_day(shop.logs(0), day(0), at / "state", options)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what was done is not done again
    second = run_day(shop.logs(1), day(1), at / "state", options)
    return at, options, first, second


def test_the_first_candidate_is_published_and_a_worse_one_is_not(worked):
    at, _, first, second = worked
    assert (first.outcome, first.version, first.reasons, first.served) == ("published", 1, [], None)
    assert (second.outcome, second.version) == ("kept", 1)
    assert any(reason.startswith("all pages: log loss +") for reason in second.reasons)
    assert second.candidate["log_loss"] > second.served["log_loss"]
    assert published_versions(at / "serving").keys() == {1}
    assert (first.trained["from"], second.trained["from"]) == ("candidate", "served")
    assert [entry.day for entry in Ledger(at / "state")] == [day(0), day(1)]


def test_a_day_is_built_on_the_one_before(worked, shop):
    at, _, first, second = worked
    datasets = [Dataset(shop.options.data), *(Dataset(at / "state" / "days" / str(day(n)) / "dataset") for n in (0, 1))]
    ids = [dataset.items()["item_id"].to_pylist() for dataset in datasets]
    assert ids[1][: len(ids[0])] == ids[0]
    assert ids[2][: len(ids[1])] == ids[1]
    assert [entry.dataset["new_items"] for entry in (first, second)] == [len(ids[1]) - len(ids[0]), 1]
    assert first.dataset["new_pictures"] + second.dataset["new_pictures"] == len(ids[2]) - len(ids[0])
    span = datasets[2].manifest.splits["train"].window
    assert second.facts.pages == datasets[2].manifest.splits["train"].pages
    assert (span.last - span.first) / 86_400_000 < 1


def test_the_candidate_has_learned_up_to_the_day_before(worked):
    at, *_ = worked
    days = [at / "state" / "days" / str(day(n)) for n in (0, 1)]
    learned = Dataset(days[0] / "dataset").manifest.splits["train"].window
    candidate = RankerRun(days[1] / "candidate")
    assert candidate.metadata.window == RankerRun(days[0] / "ranker").metadata.window == learned
    # Its tables are of today, its weights are those of yesterday.
    assert candidate.metadata.item_ids_sha256 == Dataset(days[1] / "dataset").manifest.items.ids_sha256
    weights = [RankerRun(run).ranker().members[0].get_weights() for run in (days[0] / "ranker", candidate.path)]
    for before, after in zip(*weights, strict=True):
        np.testing.assert_array_equal(before, after)


def test_drift_and_scores_are_on_record(worked):
    _, _, first, second = worked
    assert first.drift == {}
    assert second.drift.keys() == {*second.inputs, "scores"}
    assert {"item.category", "item.stat_price", "candidate.clicks_7d", "history.click"} <= second.drift.keys()
    shown = second.facts.impressions
    assert sum(second.inputs["item.stat_price"].counts) == shown
    assert sum(second.inputs["history.click"].counts) == second.facts.pages
    assert np.all(np.diff(second.scores["quantiles"]) >= 0)


def test_the_page_is_whole_and_loads_nothing(worked):
    at, *_ = worked
    page = (at / "state" / PAGE_FILE).read_text()
    assert page.count("<svg") == 12
    check_self_contained(page)
    assert "NaN" not in page
    assert "None" not in page
    assert f"2 days, the last {day(1)}; version 1 serves." in page


def test_a_day_that_is_done_is_not_done_again(worked, shop):
    at, options, _, second = worked
    (at / "state" / PAGE_FILE).unlink()
    before = (at / "state" / LEDGER_FILE).read_bytes()
    assert run_day(shop.logs(1), day(1), at / "state", options) == second
    assert (at / "state" / LEDGER_FILE).read_bytes() == before
    assert (at / "state" / PAGE_FILE).exists()
    with pytest.raises(InputError, match=f"`day`: the ledger ends with {day(1)}. Received: {day(0)}"):
        run_day(shop.logs(0), day(0), at / "state", options)


def test_of_two_runs_at_once_the_second_ends(worked, shop):
    at, options, *_ = worked
    with (
        StateDirectory(at / "state").locked(),
        pytest.raises(InputError, match="`state`: another run is at work in "),
    ):
        run_day(shop.logs(2), day(2), at / "state", options)


def test_a_day_goes_on_with_the_options_it_was_begun_with(worked, shop):
    at, options, *_ = worked
    run_day(shop.logs(2), day(2), at / "state", options, until="check")
    other = dataclasses.replace(options, training=("epochs=2",))
    with pytest.raises(InputError, match="was begun with another `training`"):
        run_day(shop.logs(2), day(2), at / "state", other)
    assert run_day(shop.logs(2), day(2), at / "state", other, until="check", restart=True) is None
    with pytest.raises(InputError, match=f"`until` must be one of {', '.join(STEPS)}. Received: end"):
        run_day(shop.logs(2), day(2), at / "state", options, until="end")


def change(logs, table, how):
    path = logs / f"{table}.parquet"
    pq.write_table(how(pq.read_table(path)), path)


def of_today(rows):
    return pc.greater_equal(rows["timestamp"], int(1000 * 86_400 * (day(2).toordinal() - 719_163)))


def nothing_today(logs):
    change(logs, "impressions", lambda rows: rows.filter(pc.invert(of_today(rows))))


def no_table(logs):
    (logs / "impressions.parquet").unlink()


def half(logs):
    def halve(rows):
        odd = pc.equal(pc.utf8_slice_codeunits(rows["page_id"], -1), pa.scalar("1"))
        for digit in "357":
            odd = pc.or_(odd, pc.equal(pc.utf8_slice_codeunits(rows["page_id"], -1), pa.scalar(digit)))
        return rows.filter(pc.invert(pc.and_(of_today(rows), odd)))

    change(logs, "impressions", halve)


def no_pictures(logs):
    shutil.rmtree(logs / "images")
    change(logs, "items", lambda rows: rows.drop_columns(["image"]).append_column("image", [[""] * len(rows)]))


def clicks_of_a_bot(logs):
    def click(rows):
        today = rows.filter(of_today(rows))
        clicks = 2 * int(pc.sum(today["clicked"]).as_py())
        shown = today.slice(0, clicks).to_pydict()
        count = len(shown["page_id"])
        shown |= {"user_id": ["u00001"] * count, "page_id": [f"bot{n // 20}" for n in range(count)]}
        shown |= {"clicked": [1] * count, "position": [n % 20 for n in range(count)]}
        return pa.concat_tables([rows, pa.table(shown, rows.schema)])

    change(logs, "impressions", click)


def repeated(logs):
    change(logs, "impressions", lambda rows: pa.concat_tables([rows, rows.filter(of_today(rows)).slice(0, 100)]))


def unknown_items(logs):
    def rename(rows):
        unknown = pc.and_(of_today(rows), pc.equal(rows["position"], 0))
        ids = pc.if_else(unknown, pc.binary_join_element_wise("x", rows["item_id"], ""), rows["item_id"])
        return rows.set_column(rows.schema.get_field_index("item_id"), "item_id", ids)

    change(logs, "impressions", rename)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (nothing_today, f"no impressions on {day(2)}"),
        (no_table, "impressions"),
        (half, r"\d+ pages, 0\.\d+ times the usual \d+; min_volume is 0\.6"),
        (no_pictures, r"0\.0% of the items have a picture, usually 100\.0%; max_picture_drop is 0\.05"),
        (clicks_of_a_bot, r"\d+ clicks, [23]\.\d+ times the usual .*one user has \d+\.\d% of the clicks"),
        (repeated, r"1\d\.\d% of the impressions are repeated; max_duplicates is 0\.05"),
        (unknown_items, r"\d\d\.\d% of the rows of impressions are in items, usually 100\.0%; max_join_drop is"),
    ],
)
def test_a_bad_day_is_refused_and_the_version_stays(worked, shop, tmp_path, damage, reason):
    at, options, *_ = worked
    state = tmp_path / "state"
    shutil.copytree(at / "state", state, symlinks=True)
    shutil.rmtree(state / "days" / str(day(2)), ignore_errors=True)
    logs = shutil.copytree(shop.logs(2), tmp_path / "logs")
    damage(logs)
    for _ in range(2):  # trying again changes nothing
        with pytest.raises(DayRefusedError, match=f"{day(2)} is refused: .*{reason}.*Version 1 goes on serving"):
            run_day(logs, day(2), state, options)
        entries = Ledger(state)
        assert [entry.outcome for entry in entries] == ["published", "kept", "refused"]
        assert entries[-1].version == 1
    assert not (state / "days" / str(day(2))).exists()
    assert "1 days were refused" in (state / PAGE_FILE).read_text()
    # The day that is not damaged goes on.
    assert run_day(shop.logs(2), day(2), state, options, until="check") is None
    assert (state / "days" / str(day(2)) / "steps" / "check.json").exists()
