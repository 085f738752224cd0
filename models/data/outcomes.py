"""What became of the candidates of pages: whether there is something to learn, and to measure by."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from models.data.map_ahead import map_ahead
from models.data.pages import Pages

_PARSE_TOGETHER = 1024


class Outcomes(NamedTuple):
    """Counts of the candidates of pages.

    Attributes:
        candidates, clicks: all of them, and the clicked ones.
        conversions: candidates that were clicked and converted.
        visits: clicked candidates with a visit of more than 0 seconds.
        longest_visit: seconds of the longest of these, 0 without any.
        mixed_pages, mixed_users: pages and users with clicked and unclicked candidates, which alone have an AUC.
    """

    candidates: int
    clicks: int
    conversions: int
    visits: int
    longest_visit: float
    mixed_pages: int
    mixed_users: int

    def one_class(self) -> str | None:
        """What all candidates have in common, in words; `None` if there are clicked and unclicked ones."""
        if not self.candidates:
            return "no candidate"
        if not self.clicks:
            return "no clicked candidate"
        return "clicked candidates only" if self.clicks == self.candidates else None


def count_outcomes(pages: Pages) -> Outcomes:
    """Counts in one pass over the pages, of which it parses nothing else."""
    labels = {"clicked": tf.int64, "converted": tf.int64, "dwell": tf.float32}
    spec = {name: tf.io.RaggedFeature(dtype) for name, dtype in labels.items()}
    spec["user"] = tf.io.FixedLenFeature([], tf.int64)

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, spec)
        flat = {name: parsed[name].flat_values for name in labels}
        return {**flat, "candidates": parsed["clicked"].row_lengths(), "user": parsed["user"]}

    users = pages.dataset.manifest.users.file.records
    by_user = np.zeros((2, users), np.int64)  # unclicked, clicked
    conversions = visits = mixed_pages = 0
    longest_visit = 0.0
    for batch in map_ahead(pages.records().batch(_PARSE_TOGETHER), parse).as_numpy_iterator():
        clicked, user = batch["clicked"] == 1, batch["user"]
        page = np.repeat(np.arange(len(user)), batch["candidates"])
        by_page = [np.bincount(page[chosen], minlength=len(user)) for chosen in (~clicked, clicked)]
        by_user += [np.bincount(user, counts, users).astype(np.int64) for counts in by_page]
        mixed_pages += int(((by_page[0] > 0) & (by_page[1] > 0)).sum())
        conversions += int((clicked & (batch["converted"] == 1)).sum())
        visits += int((clicked & (batch["dwell"] > 0)).sum())
        longest_visit = max(longest_visit, float(batch["dwell"].max(where=clicked, initial=0.0)))
    unclicked, clicks = by_user.sum(axis=1).tolist()
    mixed_users = int((by_user > 0).all(axis=0).sum())
    return Outcomes(unclicked + clicks, clicks, conversions, visits, longest_visit, mixed_pages, mixed_users)


def learnable_outcomes(pages: Pages) -> Outcomes:
    """Counts the outcomes of pages to learn on.

    Raises:
        InputError: their candidates are all clicked, or all not.
    """
    outcomes = count_outcomes(pages)
    if common := outcomes.one_class():
        raise InputError(
            f"the {len(pages)} {pages.split_name} pages to learn on, of {pages.dataset.path}, have {common}: nothing "
            "tells a click from none. Was `clicked` lost on the way, or a join with the rows that were not clicked?"
        )
    return outcomes
