import numpy as np

from models.experiments.aa_splits import AASplits, compare_aa_splits
from models.experiments.estimates import UserSums, compare


def test_equal_arms_differ_as_often_as_they_should():
    rng = np.random.default_rng(0)
    known = rng.gamma(1, 2, (500, 1))
    sums = UserSums(rng.poisson(known[:, 0]).astype(float), np.ones(500), known)
    found = compare_aa_splits(sums, 0.3, 300)
    assert found.passed
    assert (found.low, found.high) == (4, 29)


def test_units_that_depend_on_each_other_are_found():
    """Ten rows of each user as if they were users: differences are seen where there are none."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(30), 10)
    value = rng.normal(size=30)[user]
    found = 0
    for seed in range(100):
        treated = np.random.default_rng(seed).permutation(np.arange(30) < 15)[user]
        found += compare(UserSums(value, np.ones(300), np.zeros((300, 0))), treated).p < 0.05
    assert not AASplits(100, found, 0, 13).passed
