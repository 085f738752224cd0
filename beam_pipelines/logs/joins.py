"""Which IDs of one table another table knows, and what is wrong where it knows few of them."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.manifest import Join
from beam_pipelines.logs.survey import KEYS, TableSurvey

_SAMPLE = 1000
_SPELLINGS: dict[str, Callable[[str], str]] = {
    "spaces around them": str.strip,
    "leading zeros that one side lost": lambda text: text.lstrip("0"),
    "a decimal point, as of numbers stored as floats": lambda text: re.sub(r"\.0*$", "", text),
    "letter case": str.casefold,
    "quotes around them": lambda text: text.strip("\"'"),
    "another Unicode form": lambda text: unicodedata.normalize("NFKC", text),
    "a prefix or another form of a number": lambda text: re.sub(r"^\D+", "", text) or text,
}
"""How two spellings of one ID come to differ, and what makes them equal."""


class CheckedJoin(NamedTuple):
    """How many rows of one table name an ID that another table has.

    Attributes:
        rows: which column names what, and the counts.
        unmatched: some of the IDs that are not in the other table, the most frequent first.
        offered: some of the IDs of the other table that no row names.
        cause: what would make unmatched IDs match; empty if nothing is found.
    """

    counts: Join
    unmatched: list[str]
    offered: list[str]
    cause: str

    def describe(self, table: str, other: str) -> str:
        """The join as a clause of a message."""
        key = KEYS[other]
        counts = self.counts
        text = f"{counts.joined:,} of {counts.rows:,} rows of {table} have their {key} in {other}"
        if self.unmatched:
            text += f"; of the others, {table} has {_quoted(self.unmatched)}, {other} has {_quoted(self.offered)}"
        return f"{text}: they differ by {self.cause}" if self.cause else text


def check_joins(survey: Mapping[str, TableSurvey], known: Mapping[str, pa.Array]) -> dict[tuple[str, str], CheckedJoin]:
    """Joins impressions and events with items and users.

    Args:
        survey: of all tables.
        known: `items`, and `users` if there is such a table, to the IDs that have a row.

    Returns:
        By the names of the two tables.
    """
    return {
        (name, other): _check_join(table.ids[KEYS[other]], ids)
        for name, table in survey.items()
        if table.ids
        for other, ids in known.items()
    }


def _check_join(named: pa.Table, known: pa.Array) -> CheckedJoin:
    matched = pc.is_in(named["id"], known)
    joined = named.filter(matched)
    counts = Join(
        rows=pc.sum(named["rows"]).as_py() or 0,
        joined=pc.sum(joined["rows"]).as_py() or 0,
        ids=len(named),
        joined_ids=len(joined),
    )
    if len(joined) == len(named):
        return CheckedJoin(counts, [], [], "")
    unmatched = named.filter(pc.invert(matched)).sort_by([("rows", "descending"), ("id", "ascending")])
    sample = unmatched["id"].slice(0, _SAMPLE).to_pylist()
    unused = known.filter(pc.invert(pc.is_in(known, named["id"].combine_chunks())))
    cause, partner = _find_cause(sample, unused)
    offered = [partner[text] for text in sample if text in partner] or unused.slice(0, 2).to_pylist()
    shown = [text for text in sample if text in partner] or sample
    return CheckedJoin(counts, shown[:2], offered[:2], cause)


def _find_cause(unmatched: list[str], unused: pa.Array) -> tuple[str, dict[str, str]]:
    """What would make most of the unmatched IDs match, at least half of them; and their partners then."""
    found = ("", dict[str, str]())
    others = unused.to_pylist()
    for cause, spelling in _SPELLINGS.items():
        by_spelling = {spelling(text): text for text in others}
        partner = {text: by_spelling[spelling(text)] for text in unmatched if spelling(text) in by_spelling}
        if len(partner) > max(len(found[1]), len(unmatched) / 2 - 1):
            found = cause, partner
    return found


def _quoted(ids: list[str]) -> str:
    return ", ".join(repr(text if len(text) <= 40 else text[:39] + "…") for text in ids) or "none"
