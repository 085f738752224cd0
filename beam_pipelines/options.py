"""The options of a build: what a dataset is made to be."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.contract import TIME_COLUMNS
from beam_pipelines.logs.moments import UNITS, TimestampUnit, parse_moment
from beam_pipelines.logs.reading_rules import ReadingRules

ImageFormat = Literal["jpeg", "webp"]
PretrainingKind = Literal["page", "causal"]

_MAX_HOURS = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What shapes a dataset. Equal options and logs give equal bytes.

    Args:
        split_by_time: two moments. Pages before the first are for pre-training, before the second for training the
            ranker, the rest for testing. Each is an ISO date or time (UTC unless it says otherwise), epoch seconds or
            epoch milliseconds. `None`: impressions have a column `split`, which counts in any case if it is there.
        columns: columns that have other names in the files: `{"impressions.item_id": "sku"}`.
        timestamp_unit: unit of the times in all columns, or by column: `{"events.timestamp": "seconds"}`; see
            `moments.TimestampUnit`. What is not told is detected, for each column.
        time_range: the first and the last moment that a row may be of, as in `split_by_time`; other rows are rejected.
            `None`: from 1995 to the end of next year.
        missing_markers: what stands for a missing value, in all columns, beside nothing. `None`: what programs write,
            such as `NULL`; see `reading_rules.MISSING_MARKERS`.
        image_side: pixels of a stored picture's shorter side, at most. Nothing is enlarged.
        image_format: encoding of stored pictures, `jpeg` or `webp`.
        max_bad_fraction: share of the rows of a table, of the values of a column, of the page IDs, or of the pictures,
            that may be bad. More stop the build.
        min_joined: share of the rows of impressions and events whose item must be in `items`, and whose user in
            `users` if there is such a table. Less stop the build.
        page_gap_minutes: the longest pause between two rows of a page. Where a user pauses longer, the page ID is used
            again, for another page: by a counter that begins again every day, or because it is a query or a URL.
        split_reused_pages: whether a page ID that is used again, after such a pause or by another user, names a page of
            its own each time. If not, its rows are rejected.
        click_days: days that click histories reach back.
        pay_days: days that payment histories reach back.
        same_category_clicks: whether click histories keep the page's category only.
        attribute_clicks: hours after an impression within which a click event makes it clicked; the column `clicked`
            may then be missing. `None`: the column alone says what was clicked.
        max_candidates: candidates kept per page, the first ones.
        train_negatives: share of the unclicked candidates of train pages that is kept.
        pretraining_view: what the encoder learns on: `page`, the pretrain pages, trimmed; `causal`, every click once as
            the target of the clicks before it.
        pretraining_negatives: share of the unclicked candidates that is kept there; of `page` only.
        pretraining_candidates: candidates per page there, clicked ones first.
        pretraining_clicks: history clicks per page there, the latest.
        pretraining_categories: categories of the items that are kept there; all if empty.
        bucket_memory_mb: MiB of memory for building one bucket of users; decides how many buckets there are.
        page_buckets: number of buckets, and of shards per split, whatever the memory; `None` leaves it to
            `bucket_memory_mb`.

    Raises:
        InputError: a value is not what it must be; the message names the option.

    Example:
        >>> options = BuildOptions(split_by_time=("2026-03-01", "2026-03-08"), train_negatives=0.5)
        >>> options.split_times
        (1772323200000, 1772928000000)

    Reference: COURIER, section 4.2.1 and appendices A and C.
    """

    split_by_time: Sequence[str | int] | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    timestamp_unit: TimestampUnit | Mapping[str, TimestampUnit] | None = None
    time_range: Sequence[str | int] | None = None
    missing_markers: Sequence[str] | None = None
    image_side: int = 256
    image_format: ImageFormat = "jpeg"
    max_bad_fraction: float = 0.1
    min_joined: float = 0.5
    page_gap_minutes: float = 60.0
    split_reused_pages: bool = False
    click_days: int = 183
    pay_days: int = 730
    same_category_clicks: bool = False
    attribute_clicks: float | None = None
    max_candidates: int = 1000
    train_negatives: float = 1.0
    pretraining_view: PretrainingKind = "page"
    pretraining_negatives: float = 0.2
    pretraining_candidates: int = 5
    pretraining_clicks: int = 5
    pretraining_categories: Sequence[str] = ()
    bucket_memory_mb: int = 512
    page_buckets: int | None = None

    def __post_init__(self) -> None:
        for name in ("image_side", "click_days", "pay_days", "max_candidates", "pretraining_candidates"):
            self._check_count(name)
        for name in ("pretraining_clicks", "bucket_memory_mb", "page_buckets"):
            self._check_count(name)
        for name in ("max_bad_fraction", "min_joined", "train_negatives", "pretraining_negatives"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 1):
                raise InputError(f"`{name}` must be between 0 and 1. Received: {value}")
        hours = self.attribute_clicks
        if hours is not None and not (_is_number(hours) and 0 <= hours < _MAX_HOURS):
            raise InputError(f"`attribute_clicks` must be a number of hours. Received: {hours}")
        self._check_choice("image_format", get_args(ImageFormat))
        self._check_choice("pretraining_view", get_args(PretrainingKind))
        for column, unit in self.units().items():
            if column not in TIME_COLUMNS:
                times = ", ".join(TIME_COLUMNS)
                raise InputError(f"`timestamp_unit`: no column {column!r}; columns with times are {times}")
            if unit not in UNITS:
                raise InputError(f"`timestamp_unit` must be one of {', '.join(UNITS)}. Received: {unit!r}")
        for name in ("missing_markers", "pretraining_categories"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(text, str) for text in value or ()):
                raise InputError(f"`{name}` must be a list of texts. Received: {value!r}")
        if self.time_range is not None:
            _two_moments("time_range", "FIRST,LAST", self.time_range)
        if not (_is_number(self.page_gap_minutes) and 0 <= self.page_gap_minutes < 60 * _MAX_HOURS):
            raise InputError(f"`page_gap_minutes` must be a number of minutes. Received: {self.page_gap_minutes}")
        for name in ("same_category_clicks", "split_reused_pages"):
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"`{name}` must be true or false. Received: {value!r}")
        if not isinstance(self.columns, Mapping):
            raise InputError(f"`columns` must map TABLE.COLUMN to names in the files. Received: {self.columns!r}")
        if self.split_times is None and self.pretraining_view == "causal":
            raise InputError(
                "`pretraining_view` causal needs `split_by_time`, to know which clicks are for pre-training"
            )

    @property
    def split_times(self) -> tuple[int, int] | None:
        """The moments of `split_by_time` in epoch milliseconds."""
        if self.split_by_time is None:
            return None
        return _two_moments("split_by_time", "PRETRAIN_END,TRAIN_END", self.split_by_time)

    def reading_rules(self) -> ReadingRules:
        """How values are read, as far as it is told: the units of times that are not told are to be detected."""
        rules = ReadingRules(self.units())
        if self.missing_markers is not None:
            told = tuple(self.missing_markers)
            rules = dataclasses.replace(rules, missing_markers=told, text_markers=told)
        if self.time_range is not None:
            moments = _two_moments("time_range", "FIRST,LAST", self.time_range)
            rules = dataclasses.replace(rules, time_range=moments)
        return rules

    def units(self) -> dict[str, TimestampUnit]:
        """The units that `timestamp_unit` tells, by `TABLE.COLUMN`."""
        if isinstance(self.timestamp_unit, Mapping):
            return dict(self.timestamp_unit)
        return {} if self.timestamp_unit is None else dict.fromkeys(TIME_COLUMNS, self.timestamp_unit)

    def _check_count(self, name: str) -> None:
        value = getattr(self, name)
        if value is None and name == "page_buckets":
            return
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"`{name}` must be a whole number. Received: {value!r}")
        if value < 1:
            raise InputError(f"`{name}` must be at least 1. Received: {value}")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise InputError(f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}")


def _two_moments(name: str, form: str, given: str | Sequence[str | int]) -> tuple[int, int]:
    parts = [given] if isinstance(given, str) else given
    moments = [moment for part in parts if (moment := parse_moment(str(part).strip())) is not None]
    if len(parts) != 2 or len(moments) != 2 or moments[0] > moments[1]:
        raise InputError(
            f"`{name}` must be two moments, {form}, the earlier first, as ISO dates or times or epoch numbers, for "
            f"example 2026-03-01,2026-03-08. Received: {','.join(map(str, parts))}"
        )
    return moments[0], moments[1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
