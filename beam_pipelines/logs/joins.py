"""Which IDs of one table another table knows, and what is wrong where it knows few of them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.manifest import Join
from beam_pipelines.logs.survey import KEYS, TableSurvey

_SAMPLE = 1000
_ALMOST_ALL = 0.99
_SPELLINGS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "spaces around them": pc.utf8_trim_whitespace,
    "characters that cannot be seen": lambda ids: pc.replace_substring_regex(ids, r"[\pC\pZ]", ""),
    "leading zeros that one side lost": lambda ids: pc.utf8_ltrim(ids, "0"),
    "a decimal point, as of numbers stored as floats": lambda ids: pc.replace_substring_regex(ids, r"\.0*$", ""),
    "letter case": pc.utf8_lower,
    "quotes around them": lambda ids: pc.utf8_trim(ids, "\"'"),
    "another Unicode form": lambda ids: pc.utf8_normalize(ids, "NFKC"),
    "a prefix": lambda ids: pc.replace_substring_regex(ids, r"^\D+", ""),
}
"""How two spellings of one ID come to differ, and what makes them equal."""
_SCIENTIFIC = r"^\d(\.\d+)?[eE]\+?\d+$"


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
    sample = unmatched["id"].slice(0, _SAMPLE).combine_chunks()
    cause, partner = "", dict[str, str]()
    if counts.share < _ALMOST_ALL:  # a second for each million IDs
        cause, partner = _find_cause(sample, known)
    shown = [text for text in sample.to_pylist() if text in partner] or sample.to_pylist()
    offered = [partner[text] for text in shown if text in partner]
    if not offered:
        offered = known.filter(pc.invert(pc.is_in(known, named["id"].combine_chunks()))).slice(0, 2).to_pylist()
    return CheckedJoin(counts, shown[:2], offered[:2], cause)


def _find_cause(unmatched: pa.Array, known: pa.Array) -> tuple[str, dict[str, str]]:
    """What would make most of the unmatched IDs match, at least half of them, and their partners then."""
    found = ("", dict[str, str]())
    for cause, spelling in _SPELLINGS.items():
        spelt = spelling(unmatched)
        place = pc.index_in(spelt, value_set=spelling(known))
        place = pc.if_else(pc.equal(spelt, ""), None, place)
        if len(place) - place.null_count > max(len(found[1]), len(unmatched) / 2 - 1):
            partner = zip(unmatched.to_pylist(), known.take(place).to_pylist(), strict=True)
            found = cause, {text: other for text, other in partner if other is not None}
    if not found[0] and _any_scientific(unmatched, known):
        return "digits that were lost, as in 1.08775E+08", {}
    return found


def _any_scientific(*ids: pa.Array) -> bool:
    return any(pc.any(pc.match_substring_regex(side.slice(0, _SAMPLE), _SCIENTIFIC)).as_py() for side in ids)


def _quoted(ids: list[str]) -> str:
    return ", ".join(repr(text if len(text) <= 40 else text[:39] + "…") for text in ids) or "none"
