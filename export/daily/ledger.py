"""The ledger of days: what each one was, what became of it, and which version serves since."""

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.text_file import finite, parse_json, read_text
from export.daily.day_facts import DayFacts
from export.daily.drift import Histogram

LEDGER_FILE = "ledger.jsonl"

Outcome = Literal["published", "kept", "refused"]


class LedgerEntry(pydantic.BaseModel):
    """A day.

    Attributes:
        day: which.
        outcome: `published`, the candidate serves; `kept`, the day was learned on, but the version before goes on
            serving; `refused`, nothing of the day was used.
        reasons: why it was refused, or its candidate was.
        refused_before: why earlier attempts at the day were refused, if its logs have been mended since.
        version: the version that serves since, `None` if there is none yet.
        facts: what the logs hold; `None` if they could not be read.
        dataset: counts of what was built: pages, items and pictures, those that are new, and rejected rows by reason.
        candidate, served: GAUC, AUC, log loss and COPC on the day's pages, with intervals, of the ranker that had
            learned up to the day before, and of the one that served.
        difference: of the candidate from it, paired.
        slices: the same of kinds of candidates: `title`, `value`, `pages`, and the GAUC of both with the difference.
        inputs: what the day's pages held, by input.
        scores: quantiles of the candidate's click probabilities, and their histogram.
        drift: population stability index of each input, and of the scores, against the days before.
        trained: pages and the GAUC on the latest of them, of the ranker that learned on the day.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    day: datetime.date
    outcome: Outcome
    reasons: list[str] = []
    refused_before: list[str] = []
    version: int | None = None
    facts: DayFacts | None = None
    dataset: dict[str, Any] = {}
    candidate: dict[str, Any] | None = None
    served: dict[str, Any] | None = None
    difference: dict[str, Any] | None = None
    slices: list[dict[str, Any]] = []
    inputs: dict[str, Histogram] = {}
    scores: dict[str, Any] = {}
    drift: dict[str, float] = {}
    trained: dict[str, Any] = {}


class Ledger(Sequence[LedgerEntry]):
    """The days of a state directory, one JSON line each, the earliest first.

    Args:
        directory: the state directory.

    Raises:
        ArtifactError: a line is none of a ledger.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LEDGER_FILE
        self._entries: list[LedgerEntry] = []
        if self.path.is_file():
            for number, line in enumerate(read_text(self.path).splitlines(), start=1):
                try:
                    parse_json(line)
                    self._entries.append(LedgerEntry.model_validate_json(line))
                except ValueError as error:
                    raise ArtifactError(f"{self.path}: line {number} is no day of a ledger") from error

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        return self._entries[index]

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self._entries)

    def worked(self) -> list[LedgerEntry]:
        """The days that were not refused."""
        return [entry for entry in self._entries if entry.outcome != "refused"]

    def of(self, day: datetime.date) -> LedgerEntry | None:
        """The entry of a day, if there is one."""
        return next((entry for entry in self._entries if entry.day == day), None)

    def add(self, entry: LedgerEntry) -> LedgerEntry:
        """Adds a day, or replaces the last one if it was refused and has been tried again; why it was is kept.

        The file is replaced by one with the line, so that whoever reads it, or is killed, finds it whole.

        Returns:
            The entry as it is in the ledger.

        Raises:
            ArtifactError: a later day is there, or this one is and was not refused.
        """
        entries = [*self._entries]
        if entries and entries[-1].day == entry.day and entries[-1].outcome == "refused":
            before = entries.pop()
            earlier = [*before.refused_before, "; ".join(before.reasons)]
            again = "; ".join(entry.reasons)  # the same attempt, if it was killed after it was written down
            kept = [why for why in dict.fromkeys(earlier) if entry.outcome != "refused" or why != again]
            entry = entry.model_copy(update={"refused_before": kept})
        if entries and entries[-1].day >= entry.day:
            raise ArtifactError(f"{self.path} ends with {entries[-1].day}; {entry.day} must be later")
        self._entries = [*entries, entry]
        with whole_file(self.path) as path:
            path.write_text("".join(f"{_line(each)}\n" for each in self._entries), encoding="utf-8")
        return entry


def _line(entry: LedgerEntry) -> str:
    return LedgerEntry.model_validate(finite(entry.model_dump())).model_dump_json(exclude_defaults=True)
