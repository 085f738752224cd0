import time

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from models.evaluation.comparison import METRICS, Candidates, evaluate_slices, mean_over_runs, metric_samples, summaries
from models.evaluation.measure import measure
from models.evaluation.report import evaluation_report
from models.evaluation.scored_pages import ScoredPages
from models.evaluation.slices import by_category, by_count, by_flag, by_item_age
from models.metrics.auc import auc
from models.metrics.bootstrap import bootstrap_counts
from models.metrics.log_loss import log_loss

DAY = 86_400_000


def scored(pages=60, users=25, candidates=6, noises=(1.0, 0.3), seed=0, levels=None):
    """Scores of rankers on the same candidates; less noise is better."""
    rng = np.random.default_rng(seed)
    page = np.repeat(np.arange(pages), rng.integers(1, candidates + 1, pages))
    user, n = rng.integers(0, users, pages)[page] * 3 + 7, len(page)
    truth = rng.normal(-0.8, 1, n)
    clicked = rng.random(n) < expit(truth)
    result = {}
    for number, noise in enumerate(noises):
        ctr = expit(truth + rng.normal(0, noise, n)).astype(np.float32)
        ctr = ctr if levels is None else np.float32(np.round(ctr * levels) / levels)
        result[f"ranker{number}"] = ScoredPages(
            page_ids=np.array([b"p%d" % p for p in range(pages)]),
            page=page,
            user=user,
            timestamp=np.full(n, 400 * DAY),
            item=rng.integers(0, 40, n),
            position=np.arange(n) % 5,
            clicked=clicked,
            converted=(clicked & (truth > 0)).astype(np.int64),
            dwell_label=np.where(clicked, 20 * expit(truth), 0).astype(np.float32),
            ctr=ctr,
        )
    return result


def samples_of(scores, rate=1.0, draws=50):
    first = next(iter(scores.values()))
    candidates = Candidates.of(first.page, first.user, first.clicked, rate)
    counts = bootstrap_counts(int(candidates.user.max()) + 1, samples=draws)
    return metric_samples([each.ctr for each in scores.values()], candidates, counts), candidates, counts


def drawn(scores, candidates, counts):
    """The candidates of a bootstrap sample, every draw of a user as a user of its own with pages of its own."""
    parts = []
    for user, count in enumerate(counts):
        rows = np.flatnonzero(candidates.user == user)
        parts += [(rows, 1000 * user + draw) for draw in range(count)]
    rows = np.concatenate([rows for rows, _ in parts])
    user = np.concatenate([np.full(len(rows), number) for rows, number in parts])
    resampled = scores.select(rows)
    return resampled._replace(user=user, page=resampled.page + 1_000_000 * user)


@pytest.mark.parametrize("rate", [1.0, 0.25])
@pytest.mark.parametrize("levels", [None, 4])
def test_every_sample_is_the_metric_of_the_drawn_users(rate, levels):
    scores = scored(levels=levels)
    samples, candidates, counts = samples_of(scores, rate, draws=8)
    assert samples.shape == (2, len(METRICS), 9)
    for row, each in zip(samples, scores.values(), strict=True):
        whole = measure(each, rate)
        np.testing.assert_allclose(row[:, 0], [whole[name] for name in METRICS], rtol=1e-9)
        for sample in range(8):
            metrics = measure(drawn(each, candidates, counts[:, sample]), rate)
            expected = [metrics[name] for name in METRICS]
            np.testing.assert_allclose(row[1:, 1 + sample], expected[1:], rtol=1e-4)
            assert row[0, 1 + sample] == pytest.approx(expected[0], abs=0.03)  # AUC to first order


def test_auc_intervals_are_those_of_resampled_pairs():
    scores = scored(pages=400, users=150)
    samples, candidates, counts = samples_of(scores, draws=400)
    exact = np.empty((2, 400))
    for k, each in enumerate(scores.values()):
        for sample in range(400):
            rows = np.repeat(np.arange(len(each.ctr)), counts[candidates.user, sample])
            exact[k, sample] = auc(each.ctr[rows], each.clicked[rows])
    first_order = samples[:, METRICS.index("auc"), 1:]
    for found, right in ((first_order, exact), (first_order[1] - first_order[0], exact[1] - exact[0])):
        ends, right_ends = (np.quantile(each, [0.025, 0.975], axis=-1) for each in (found, right))
        assert (np.abs(ends - right_ends) < 0.1 * np.ptp(right_ends, axis=0)).all()


def test_differences_are_paired():
    scores = scored(pages=600, users=200)
    rows = summaries(samples_of(scores | {"again": scores["ranker0"]}, draws=300)[0])
    assert "differences" not in rows[0]
    better, same = rows[1]["differences"], rows[2]["differences"]
    for name in METRICS:
        assert same[name]["difference"] == 0
        assert (same[name]["low"], same[name]["high"]) == pytest.approx((0, 0), abs=1e-6)
        assert better[name]["difference"] == pytest.approx(rows[1][name] - rows[0][name])
        assert better[name]["low"] <= better[name]["difference"] <= better[name]["high"]
        low, high = rows[1]["intervals"][name]
        assert low <= rows[1][name] <= high
    assert better["gauc_page_mean"]["low"] > 0 > better["log_loss"]["high"]
    width = better["auc"]["high"] - better["auc"]["low"]
    assert width < np.diff(rows[0]["intervals"]["auc"]) + np.diff(rows[1]["intervals"]["auc"])


def test_increasing_transforms_change_no_auc():
    scores = scored()
    transformed = {name: each._replace(ctr=each.ctr**2) for name, each in scores.items()}
    before, after = samples_of(scores)[0], samples_of(transformed)[0]
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).all()


def test_means_over_seeds_average_within_each_sample():
    samples = samples_of(scored(noises=(1.0, 0.3, 0.9)))[0]
    means = mean_over_runs(samples, {"a": [0, 2], "b": [1]})
    np.testing.assert_allclose(means[0], (samples[0] + samples[2]) / 2)
    np.testing.assert_array_equal(means[1], samples[1])
    ends = summaries(means)[0]["intervals"]["gauc_page_mean"]
    gauc = METRICS.index("gauc_page_mean")
    np.testing.assert_allclose(ends, np.quantile(means[0, gauc, 1:], [0.025, 0.975]))


def test_slices_are_the_candidates_alone():
    scores = scored(pages=200)
    first = scores["ranker0"]
    _, candidates, counts = samples_of(scores)
    slices = [by_count("position", first.position), by_flag("x", ("no", "yes"), first.item > 30)]
    ctrs = [each.ctr for each in scores.values()]
    report = evaluate_slices(ctrs, candidates, counts, {"a": [0], "b": [1]}, slices)
    assert [each["value"] for each in report["position"]] == ["0", "1", "2-3", "4-7"]
    assert sum(each["candidates"] for each in report["position"]) == len(first.ctr)
    assert [each["value"] for each in report["x"]] == ["no", "yes"]
    for value, chosen in (("no", first.item <= 30), ("yes", first.item > 30)):
        (found,) = (each for each in report["x"] if each["value"] == value)
        assert (found["candidates"], found["clicks"]) == (chosen.sum(), first.clicked[chosen].sum())
        for system, each in zip(("a", "b"), scores.values(), strict=True):
            expected = measure(each.select(chosen))
            assert (found["pages"], found["users"]) == (expected["pages"], expected["users"])
            for name in METRICS:
                assert found["systems"][system][name] == pytest.approx(expected[name])


def test_slices_of_one_class_are_kept_and_undefined():
    scores = scored(pages=30)
    _, candidates, counts = samples_of(scores)
    slices = [by_flag("clicked", ("no", "yes"), candidates.clicked)]
    no, yes = evaluate_slices([scores["ranker0"].ctr], candidates, counts, {"a": [0]}, slices)["clicked"]
    assert (no["clicks"], no["pages"]) == (0, 0)
    assert yes["candidates"] == yes["clicks"] == candidates.clicked.sum()
    for each in (no["systems"]["a"], yes["systems"]["a"]):
        for name in METRICS[:5]:
            assert np.isnan([each[name], *each["intervals"][name]]).all()
        assert np.isfinite(each["intervals"]["log_loss"]).all()
    assert no["systems"]["a"]["copc"] == 0


def test_kinds_of_candidates():
    items = pa.table(
        {
            "category": ["b", None, "a", "a"],
            "published_at": pa.array([399 * DAY, None, 0, 401 * DAY], pa.int64()),
        }
    )
    item = np.array([2, 3, 0, 2, 1])
    category = by_category(items, item)
    assert category.values[0] == "a"  # the most frequent
    assert [category.values[n] for n in category.number] == ["a", "a", "b", "a", "(none)"]
    age = by_item_age(items, item, np.full(5, 400 * DAY))
    assert age.values == ("0-6 days", "365 days or more", "unknown")
    assert [age.values[n] for n in age.number] == [*age.values[1::-1], "0-6 days", "365 days or more", "unknown"]
    steps = by_count("steps", np.array([0, 1, 2, 3, 4, 7, 8, 1000, -1]))
    expected = ["0", "1", "2-3", "2-3", "4-7", "4-7", "8-15", "512-1023", "0"]
    assert [steps.values[n] for n in steps.number] == expected
    days = [0, 6, 7, 29, 30, 89, 90, 364, 365]
    ages = by_item_age(pa.table({"published_at": [0]}), np.zeros(9, int), np.array(days) * DAY)
    assert ages.number.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_other_predictions_are_measured_on_what_is_known():
    each = scored()["ranker0"]
    known = np.arange(len(each.ctr)) % 3 > 0
    each = each._replace(
        converted=np.where(known, each.converted, -1), ctcvr=each.ctr * 0.5, dwell=np.float32(20) * each.ctr
    )
    metrics = measure(each, 0.5)
    label = (each.clicked & (each.converted == 1))[known]
    assert metrics["ctcvr"]["auc"] == auc(each.ctcvr[known], label)
    assert (metrics["ctcvr"]["candidates"], metrics["ctcvr"]["conversions"]) == (known.sum(), label.sum())
    weight = np.where(each.clicked, 0.5, 1.0)[known]  # those clicked and not converted are all there
    losses = [log_loss(each.ctcvr[known][[n]], label[[n]]) for n in range(known.sum())]
    assert metrics["ctcvr"]["log_loss"] == pytest.approx(np.average(losses, weights=weight))
    error = np.log1p(each.dwell) - np.log1p(each.dwell_label)
    assert metrics["dwell"]["mean_absolute_log_error"] == pytest.approx(np.abs(error[each.clicked]).mean())
    assert 0.5 < metrics["dwell"]["xauc"] < 1
    assert measure(each._replace(dwell=each.dwell_label))["dwell"]["xauc"] == 1
    nothing = np.zeros(0, np.int64)
    empty = Candidates(nothing, nothing, nothing == 1, nothing.astype(float))
    assert np.isnan(metric_samples([each.ctr[:0]], empty, bootstrap_counts(5))).all()
    nobody = measure(each.select(np.zeros(len(known), bool)))
    assert np.isnan([nobody["auc"], nobody["ctcvr"]["auc"], nobody["dwell"]["xauc"], nobody["ece"]]).all()


def test_nan_scores_are_an_error():
    scores = scored()
    broken = scores["ranker1"]._replace(ctr=np.where(np.arange(len(scores["ranker1"].ctr)) == 3, np.nan, 0.5))
    with pytest.raises(ValueError, match="must not be NaN"):
        measure(broken)
    with pytest.raises(ValueError, match="must not be NaN"):
        samples_of(scores | {"ranker1": broken})


def test_a_large_comparison_takes_seconds():
    scores = scored(pages=40_000, users=20_000, candidates=19, noises=(1.0, 0.5))
    first = scores["ranker0"]
    assert len(first.ctr) > 390_000
    start = time.process_time()
    slices = [by_count("item", first.item)]
    report = evaluation_report(scores, first.item > 30, slices, {"a": [0], "b": [1]}, 1.0)
    assert time.process_time() - start < 20
    assert report["models"]["ranker1"]["all"]["differences"]["auc"]["low"] > 0
