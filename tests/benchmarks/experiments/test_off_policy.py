import numpy as np
import pytest

from benchmarks.experiments.off_policy import POSITIONS, Log, estimate, read_log, shares


def test_shares_are_those_of_each_position():
    log = Log(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), np.zeros(4), np.ones(4))
    assert shares(log, 3).tolist() == [[1, 0.5, 0], [0, 0.5, 1], [0, 0, 0]]


@pytest.mark.parametrize("campaign", ["men", "women"])
def test_the_random_log_of_a_real_shop_tells_the_value_of_the_other_policy(shared_data, campaign):
    """Open Bandit: estimates from Random's log are within two standard errors of BTS's mean in its own log."""
    source = shared_data("zozo_open_bandit")
    random, bts = (read_log(source / f"{name}_{campaign}.csv.gz") for name in ("random", "bts"))
    target = shares(bts, 1 + int(random.item.max()))
    np.testing.assert_allclose(target.sum(axis=0), np.ones(POSITIONS))
    own = bts.reward.mean()
    for name, found in estimate(random, target).items():
        error = np.hypot(found["error"], bts.reward.std() / np.sqrt(len(bts.reward)))
        assert abs(found["value"] - own) < 2 * error, name
        assert found["effective_rows"] > 2000
        assert 0.001 < found["error"] < 0.0015
