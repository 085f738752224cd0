import numpy as np
import pytest

from models.evaluation.comparison import METRICS, Candidates, evaluate_slices, mean_over_runs, metric_samples, summaries
from models.evaluation.measure import measure
from models.evaluation.slices import by_count, by_flag
from models.metrics.auc import auc
from models.metrics.bootstrap import bootstrap_counts
from tests.models.evaluation.scored import scored


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


def test_nothing_has_no_metrics():
    nothing = np.zeros(0, np.int64)
    empty = Candidates(nothing, nothing, nothing == 1, nothing.astype(float))
    assert np.isnan(metric_samples([np.zeros(0, np.float32)], empty, bootstrap_counts(5))).all()


def test_nan_scores_are_an_error():
    scores = scored()
    broken = scores["ranker1"]._replace(ctr=np.where(np.arange(len(scores["ranker1"].ctr)) == 3, np.nan, 0.5))
    with pytest.raises(ValueError, match="must not be NaN"):
        samples_of(scores | {"ranker1": broken})
