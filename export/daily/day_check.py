"""Says what is wrong with a day before it is worked on."""

import datetime
from collections.abc import Iterator, Sequence
from statistics import median

from beam_pipelines.format.errors import InputError
from export.daily.bounds import DayBounds
from export.daily.day_facts import DayFacts


class DayRefusedError(InputError):
    """A day that must not be learned on or published; the message says why. The version before goes on serving."""


def whats_wrong(facts: DayFacts, usual: Sequence[DayFacts], bounds: DayBounds, day: datetime.date) -> list[str]:
    """Compares a day with its bounds.

    Args:
        facts: the day.
        usual: the days that say what is usual, at least one.
        bounds: the bounds.
        day: which day it is.

    Returns:
        A line for each bound that is broken; none for a good day.
    """
    if not facts.impressions:
        return [f"no impressions on {day}"]
    return [
        *_volumes(facts, usual, bounds),
        *_clicks(facts, usual, bounds),
        *_shares(facts, usual, bounds),
    ]


def _volumes(facts: DayFacts, usual: Sequence[DayFacts], bounds: DayBounds) -> Iterator[str]:
    if facts.pages < bounds.min_pages:
        yield f"{facts.pages:,.0f} pages; min_pages is {bounds.min_pages}"
    for name in ("pages", "impressions", "clicks"):
        found, expected = getattr(facts, name), median(getattr(day, name) for day in usual)
        if found < bounds.min_volume * expected:
            yield f"{found:,.0f} {name}, {_times(found, expected)}; min_volume is {bounds.min_volume:g}"
        elif found > bounds.max_volume * expected:
            yield f"{found:,.0f} {name}, {_times(found, expected)}; max_volume is {bounds.max_volume:g}"


def _clicks(facts: DayFacts, usual: Sequence[DayFacts], bounds: DayBounds) -> Iterator[str]:
    found, expected = facts.click_rate, median(day.click_rate for day in usual)
    for name, broken in (
        ("min_click_rate", found < bounds.min_click_rate * expected),
        ("max_click_rate", found > bounds.max_click_rate * expected),
    ):
        if broken:
            yield f"a click rate of {found:.3f}, {_times(found, expected)}; {name} is {getattr(bounds, name):g}"
    if facts.clicks and facts.most_clicks > bounds.max_user_share * facts.clicks:
        share = facts.most_clicks / facts.clicks
        yield f"one user has {share:.1%} of the clicks; max_user_share is {bounds.max_user_share:g}"


def _shares(facts: DayFacts, usual: Sequence[DayFacts], bounds: DayBounds) -> Iterator[str]:
    repeated = facts.duplicates / facts.impressions
    if repeated > bounds.max_duplicates:
        yield f"{repeated:.1%} of the impressions are repeated; max_duplicates is {bounds.max_duplicates:g}"
    for name, share in facts.joins.items():
        known = [day.joins[name] for day in usual if name in day.joins]
        if known and share < median(known) - bounds.max_join_drop:
            table, _, other = name.partition(".")
            yield (
                f"{share:.1%} of the rows of {table} are in {other}, usually {median(known):.1%}; max_join_drop is "
                f"{bounds.max_join_drop:g}"
            )
    expected = median(day.picture_share for day in usual)
    if facts.picture_share < expected - bounds.max_picture_drop:
        yield (
            f"{facts.picture_share:.1%} of the items have a picture, usually {expected:.1%}; max_picture_drop is "
            f"{bounds.max_picture_drop:g}"
        )


def _times(found: float, expected: float) -> str:
    return f"{found / expected:.2f} times the usual {expected:,.4g}" if expected else "where none are usual"
