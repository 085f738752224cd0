"""What the logs of a day hold, in numbers: what a day is judged by before any work is done."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from beam_pipelines import BuildOptions, LogCheck
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.rows import normalise
from beam_pipelines.logs.survey import KEYS
from beam_pipelines.shell.progress import progress_bar

DAY_MS = 86_400_000

_IMPRESSION = ["page_id", "user_id", "item_id", "timestamp", "position", "clicked"]
_EVENT = ["user_id", "item_id", "timestamp", "event"]


class Span(NamedTuple):
    """The moments of a day (UTC), in epoch milliseconds: from the first on, before the second."""

    start: int
    end: int

    @classmethod
    def of(cls, day: datetime.date) -> "Span":
        """Those of a day."""
        start = int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp() * 1000)
        return cls(start, start + DAY_MS)


class DayFacts(pydantic.BaseModel):
    """A day in numbers.

    Attributes:
        pages, impressions, clicks, users: of the day.
        duplicates: impressions that repeat an item of their page.
        most_clicks: clicks of the user who has the most.
        joins: `impressions.items`, and `impressions.users` if there is a table of users, to the share of the day's
            impressions whose item, or user, is known.
        items: in the catalogue.
        items_with_picture: of these, with a picture that is there.
        rejected: rows of the logs that break the contract.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    pages: float
    impressions: float
    clicks: float
    users: float
    duplicates: float
    most_clicks: float
    joins: dict[str, float]
    items: float
    items_with_picture: float
    rejected: float

    @property
    def click_rate(self) -> float:
        """Clicks per impression."""
        return self.clicks / self.impressions if self.impressions else 0.0

    @property
    def picture_share(self) -> float:
        """Share of the catalogue's items that have a picture."""
        return self.items_with_picture / self.items if self.items else 0.0

    @classmethod
    def of_logs(
        cls, checked: LogCheck, day: datetime.date, options: BuildOptions, known: Mapping[str, pa.ChunkedArray]
    ) -> "DayFacts":
        """Counts the rows of a day.

        Args:
            checked: the logs.
            day: the day.
            options: how they are read.
            known: `items` and `users`, to IDs that are known beside those in the logs.

        Raises:
            InputError: the impressions say themselves which split they are of.
        """
        tables, span = checked.directory.tables, Span.of(day)
        if "split" in tables["impressions"].columns:
            raise InputError(
                f"{checked.directory.path}: impressions have a column `split`, but the day says which pages are its; "
                "leave the column out"
            )
        shown = _rows_of(checked, "impressions", _IMPRESSION, span)
        distinct = shown.group_by(["page_id", "user_id", "item_id"]).aggregate([("clicked", "max")])
        clicking = distinct.filter(distinct["clicked_max"])["user_id"]
        if options.attribute_clicks is not None and "events" in tables:
            events = _rows_of(checked, "events", _EVENT, span)
            clicks = events.filter(pc.equal(events["event"], "click"))["user_id"]
            clicking = pa.chunked_array([*clicking.chunks, *clicks.chunks], pa.string())
        by_user = pc.value_counts(clicking).field("counts")
        pictures = checked.pictures
        return cls(
            pages=len(pc.unique(shown["page_id"])),
            impressions=len(shown),
            clicks=len(clicking),
            users=len(pc.unique(shown["user_id"])),
            duplicates=len(shown) - len(distinct),
            most_clicks=pc.max(by_user).as_py() or 0,
            joins={
                f"impressions.{name}": _share_known(shown[key], [checked.newest[name][key], known[name]])
                for name, key in KEYS.items()
                if name in checked.newest
            },
            items=len(checked.newest["items"]),
            items_with_picture=0 if pictures is None else pictures.found,
            rejected=sum(table.rejected.rows() for table in checked.survey.values()),
        )

    @classmethod
    def of_dataset(cls, manifest: Manifest) -> "DayFacts":
        """What a dataset says of one of its days: the mean over them.

        Args:
            manifest: of the dataset.
        """
        splits = manifest.splits.values()
        first = min(split.window.first for split in splits)
        last = max(split.window.last for split in splits)
        days = max(1.0, (last - first) / DAY_MS)
        kept = {name: split.negative_rate or 1.0 for name, split in manifest.splits.items()}
        clicks = sum(split.clicks for split in splits)
        shown = sum(split.clicks + (split.impressions - split.clicks) / kept[n] for n, split in manifest.splits.items())
        return cls(
            pages=sum(split.pages for split in splits) / days,
            impressions=shown / days,
            clicks=clicks / days,
            users=0,
            duplicates=0,
            most_clicks=0,
            joins={name: join.share for name, join in manifest.joins.items() if name.startswith("impressions.")},
            items=manifest.items.file.records,
            items_with_picture=manifest.images.items_with_image if manifest.images else 0,
            rejected=0,
        )


def _share_known(ids: pa.ChunkedArray, known: Sequence[pa.ChunkedArray]) -> float:
    together = pa.chunked_array([chunk for each in known for chunk in each.cast(pa.string()).chunks], pa.string())
    return pc.mean(pc.is_in(ids, together)).as_py() if len(ids) else 1.0


def _rows_of(checked: LogCheck, name: str, columns: list[str], span: Span) -> pa.Table:
    """The valid rows of a table that are of the day: the columns, as far as the table has them."""
    table = checked.directory.tables[name]

    def batches() -> Iterator[pa.RecordBatch]:
        with progress_bar(desc=f"counting {name}", unit=" rows", unit_scale=True) as bar:
            for part in table_parts(table):
                for raw in read_part(table, part, columns):
                    rows = normalise(table, raw, checked.reading).rows
                    bar.update(len(rows))
                    moment = rows["timestamp"]
                    of_day = pc.and_(pc.greater_equal(moment, span.start), pc.less(moment, span.end))
                    yield rows.filter(of_day).select([each for each in columns if each != "timestamp"])

    schema = pa.schema([table.schema().field(each) for each in columns if each != "timestamp"])
    return pa.Table.from_batches(batches(), schema)
