import numpy as np
import pytest

from benchmarks.ranker.position_bias import counted, effect, planted_clicks, read_log


def test_the_effect_is_the_difference_of_log_odds():
    position, clicked = np.repeat([0, 1, 2], 8), np.tile([1, 0, 0, 0, 0, 0, 0, 0], 3)
    clicked[8:10] = 1
    expected = [0, np.log(2 / 6) - np.log(1 / 7), 0]
    np.testing.assert_allclose(effect(position, clicked, np.ones(24)), expected, atol=1e-12)
    weight = np.where(clicked & (position == 2), 7.0, 1.0)
    np.testing.assert_allclose(effect(position, clicked, weight)[2], np.log(7), atol=1e-12)


def test_intervals_hold_what_was_counted():
    rng = np.random.default_rng(3)
    position = rng.integers(0, 3, 3000)
    for each in counted(position, rng.random(3000) < 0.2, np.ones(3000)):
        assert each["low"] < each["value"] < each["high"] < each["low"] + 0.7


def test_planted_clicks_follow_what_the_policy_prefers(shared_data):
    log = read_log(shared_data("zozo_open_bandit"), "bts")
    position, clicked = log["position"].to_numpy(), planted_clicks(log)
    assert set(position) == {0, 1, 2}
    assert clicked.mean() == pytest.approx(0.12, abs=0.03)
    assert effect(position, clicked, np.ones(len(position)))[2] < -0.85
