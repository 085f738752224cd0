import json
import re
from pathlib import Path

import numpy as np
import pytest

import benchmarks.study.report as report
from benchmarks.study.plan import Encoder
from benchmarks.study.results import Results, auc_gains, compared, compared_on, gains

PAGES, USERS = 60, 12


def write(folder: Path, path: str, **figures) -> None:
    file = folder / f"{path}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"seconds": 1800, "commit": "abc", **figures}))


@pytest.fixture
def results(tmp_path):
    """Two seeds: on each page, COURIER's ranker is .1 better than that without pictures, and SimCLR's is no better."""
    user = (np.arange(PAGES) % USERS).tolist()
    rng = np.random.default_rng(0)
    base, folder = rng.uniform(0.4, 0.6, PAGES), tmp_path / "study"
    pages = {"similarity_user": user, "ranker_user": {"all": user, "unseen": user}}
    counts = [[5] * USERS, [20] * USERS]
    clicks = {"click_user": user, "click_category": ["Dress", "Coat"] * (PAGES // 2)}
    write(folder, "hm/pages", **pages, **clicks, candidates=counts)
    for name, gain in (("none", 0.0), ("courier-random-simscore", 0.1), ("simclr-random-simscore", 0.0)):
        for seed, sign in ((0, 1), (1, -1)):
            values = (base + gain + sign * 0.02).tolist()
            placements = [np.full(USERS, side * (0.5 + gain)).tolist() for side in (5, 20)]
            found = {"all": values, "unseen": values}
            write(folder, f"hm/rankers/{name}-{seed}", pages=found, placements=placements, clicks=values)
    for method, gauc in (("courier", 0.6), ("simclr", 0.55)):
        validation = {"validation": {"raw": 0.5, "whitened": 0.6}}
        write(folder, f"hm/tuning/{method}-random-one_more", **validation)
        test = {form: (base + gauc - 0.5).tolist() for form in ("raw", "whitened")}
        labels = {label: {form: [0.4, 0.01] for form in test} for label in ("type", "colour", "pattern")}
        figures = {**validation, "test": test, "consistency": labels}
        write(folder, f"hm/encoders/{method}-random-0", **figures, probe={"top1": 0.7})
    return Results(folder)


def test_differences_are_paired_over_pages_with_seeds_averaged(results):
    courier, simclr, swav = gains(results, [Encoder("courier"), Encoder("simclr"), Encoder("swav")], "simscore", "all")
    np.testing.assert_allclose([courier.mean, courier.low, courier.high], 0.1, atol=1e-9)
    np.testing.assert_allclose([simclr.mean, simclr.low, simclr.high], 0.0, atol=1e-9)
    assert courier.p < 0.01 < simclr.p
    assert swav is None
    (gain,) = auc_gains(results, [Encoder("courier")], "simscore")
    np.testing.assert_allclose([gain.mean, gain.low, gain.high], 0.1, atol=1e-9)


def test_a_variant_is_compared_with_the_seeds_that_it_has(results):
    """COURIER's second seed, .1 better, has no counterpart."""
    first = json.loads((results.folder / "hm/encoders/courier-random-0.json").read_text())["test"]
    better, worse = ({form: (np.array(values) + d).tolist() for form, values in first.items()} for d in (0.1, -0.02))
    write(results.folder, "hm/encoders/courier-random-1", test=better)
    write(results.folder, "hm/encoders/courier-random-hinge-0", test=worse)
    (hinge,) = compared(results, [Encoder("courier", "random", (), "hinge")], Encoder("courier"))
    assert hinge.mean == pytest.approx(-0.02)


def test_on_other_data_ways_are_compared_with_courier_from_the_same_start(results):
    """By the form that each way's validation pages choose; in the other one there is no difference."""
    user, rng = (np.arange(PAGES) % USERS).tolist(), np.random.default_rng(0)
    base = rng.uniform(0.4, 0.6, PAGES)
    for name, gain, form in (
        ("courier-random", 0.2, "raw"),
        ("courier-published", 0.0, "raw"),
        ("simclr-random", 0.1, "whitened"),
        ("as_published-published", 0.3, "raw"),
    ):
        test = {each: (base + gain * (each == form)).tolist() for each in ("raw", "whitened")}
        validation = {each: 0.6 if each == form else 0.5 for each in test}
        write(results.folder, f"movielens/encoders/{name}-0", test=test, validation=validation, user=user)
    encoders = [Encoder("courier"), Encoder("simclr"), Encoder("as_published", "published"), Encoder("swav")]
    courier, simclr, as_published, swav = compared_on(results, "movielens", encoders)
    assert courier is None
    assert swav is None
    np.testing.assert_allclose([simclr.mean, simclr.low, simclr.high], -0.1, atol=1e-9)
    np.testing.assert_allclose([as_published.mean, as_published.low, as_published.high], 0.3, atol=1e-9)
    table = report.other_table(results, "movielens")
    assert "| SimCLR, random weights | 0.6" in table
    assert re.search(r"\| -0\.1000 \[-0\.1000, -0\.1000\] \* \| not run \|", table)
    assert re.search(r"\| COURIER, random weights \| 0\.\d+ \| \| not run \|", table)


def test_the_page_has_what_is_measured_and_names_the_rest(results, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr("benchmarks.study.figures.DOCS", tmp_path)
    template = Path(report.__file__).with_name("page.md").read_text()
    page = report.fill(template, report.tables(results))
    assert "{{" not in page
    assert "| SimCLR, random weights | whitened | 0.5" in page
    assert re.search(r"\| COURIER, random weights \| not run \| \+0\.1000 \[\+0\.1000, \+0\.1000\] \* \|", page)
    assert "- H&M: untrained; as published; Supervised, random weights; " in page
    assert "- MovieLens: untrained; as published; COURIER, random weights; " in page
    assert {path.name for path in tmp_path.glob("*.svg")} == {"study-methods.svg", "study-categories.svg"}
    assert all(f"]({path.name})" in page for path in tmp_path.glob("*.svg"))
