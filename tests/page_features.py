"""Page features for tests that make their own records."""

import numpy as np

from beam_pipelines.format.records import FEATURES, STATISTICS_DAYS


def no_statistics(candidates):
    """The statistics of items that nothing is known of."""
    names = [f.name for f in FEATURES if f.name.endswith(tuple(f"_{days}d" for days in STATISTICS_DAYS))]
    return {name: np.zeros(candidates) for name in names}
