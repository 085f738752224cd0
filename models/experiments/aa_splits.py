"""Whether the analysis finds differences where there are none: the users of an experiment, split anew at random."""

from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from beam_pipelines.shell.progress import progress_bar
from models.experiments.estimates import LEVEL, UserSums, compare


class AASplits(NamedTuple):
    """How often equal arms differed.

    Attributes:
        splits: how many random splits were compared.
        rejected: how many of them have p < 5 %.
        low, high: between these are 99.9 % of what is expected of `rejected`.
    """

    splits: int
    rejected: int
    low: int
    high: int

    @property
    def passed(self) -> bool:
        """Whether `rejected` is what is expected."""
        return self.low <= self.rejected <= self.high


def compare_aa_splits(sums: UserSums, share: float, splits: int, seed: int = 0) -> AASplits:
    """Splits users at random, again and again, and compares the halves as arms are compared.

    Args:
        sums: of the users of a metric, whatever their arms were.
        share: of the users that is the treatment.
        splits: how often.
        seed: of the splits.

    Reference: Kohavi, Tang, Xu, Trustworthy online controlled experiments (2020), chapter 19.
    """
    rng = np.random.default_rng(seed)
    users = len(sums.above)
    treated = np.arange(users) < min(max(round(share * users), 2), users - 2)
    rejected = 0
    for _ in progress_bar(range(splits), desc="A/A", unit="split"):
        rejected += compare(sums, rng.permutation(treated)).p < 1 - LEVEL
    low, high = binom.interval(0.999, splits, 1 - LEVEL)
    return AASplits(splits, rejected, int(low), int(high))
