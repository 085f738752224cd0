"""Finds the contract's columns among the names that files have for them."""

import re
from collections.abc import Collection, Mapping

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.logs.contract import TABLES, find_column


def find_columns(table: str, names: Collection[str], renamed: Mapping[str, str], file: Location) -> dict[str, str]:
    """The contract's columns that a file has, and each one's name there.

    The very name comes first. Otherwise a name is taken that differs in the case of letters, spaces, hyphens and
    underscores alone, as many warehouses export them (`ITEM_ID`, `itemId`).

    Args:
        table: the table.
        names: of the file's columns.
        renamed: the contract's columns that have other names, as whoever builds says.
        file: for errors.

    Raises:
        InputError: two names differ from a column's alone like that.
    """
    found = {column: name for column, name in renamed.items() if name in names}
    free = [name for name in names if name not in renamed.values()]
    variants: dict[str, list[str]] = {}
    for name in free:
        column = _variant_of(table, name)
        if column is not None and column not in renamed:
            variants.setdefault(column, []).append(name)
    for column, candidates in variants.items():
        if column in candidates:
            found[column] = column
        elif len(candidates) == 1:
            found[column] = candidates[0]
        else:
            raise InputError(
                f"{file}: each of {', '.join(map(repr, candidates))} may be {table}.{column}; "
                f"pass `columns` {table}.{column}=NAME"
            )
    return found


def _variant_of(table: str, name: str) -> str | None:
    """The contract's column that a name stands for."""
    if find_column(table, name) is not None:
        return name
    plain = _plain(name)
    for column in TABLES[table]:
        if column.name.endswith("*"):
            if re.sub(r"[\s-]+", "_", name.strip().lower()).startswith(column.name[:-1]):
                return re.sub(r"[\s-]+", "_", name.strip().lower())
        elif _plain(column.name) == plain:
            return column.name
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())
