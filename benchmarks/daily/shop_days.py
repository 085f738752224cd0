"""Logs of a simulated shop, day by day: the sample's shoppers, a catalogue that grows in parts, days that go wrong."""

import datetime
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.datasets.sample_logs import SAMPLE, read_labels, simulate

DAY_MS = 86_400_000
BEGIN = datetime.date(2024, 3, 1)
"""The first day of the simulation."""
BASE_DAYS, DAYS = 14, 14
"""Days that the first ranker is made of, and days that follow."""
PARTS = (0, 3, 6, 9, 12)
"""On these of the days that follow, a tenth of the catalogue arrives."""

Tables = dict[str, pa.Table]


def day(number: int) -> datetime.date:
    """A day that follows, from 0 on; those of the first ranker are below."""
    return BEGIN + datetime.timedelta(days=BASE_DAYS + number)


def start_of(date: datetime.date) -> int:
    """The first moment of a day, in epoch milliseconds."""
    return int(datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.UTC).timestamp() * 1000)


def simulated_shop(users: int, pages: int, photos: int) -> Tables:
    """The tables of all days."""
    images, garments = zip(*read_labels(SAMPLE)[:photos], strict=True)
    with zipfile.ZipFile(SAMPLE / "photos.zip") as source:
        encoded = [source.read(image) for image in images]
    rng = np.random.default_rng(7)
    part = rng.permutation(photos) * 10 // photos
    published = start_of(BEGIN) - rng.integers(8, 365, photos) * DAY_MS
    for number, first in enumerate(PARTS):
        published = np.where(part == 9 - number, start_of(day(first)), published)
    return simulate(encoded, garments, images, users, pages, seed=0, published=published)


def write_logs(tables: Tables, directory: Path, end: datetime.date) -> Path:
    """Writes what a shop has in its logs at the end of the day before `end`: the catalogue so far, and all that was."""
    if directory.exists():
        return directory
    scratch = directory.with_name(f".{directory.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "images").mkdir(parents=True)
    moment = start_of(end)
    for name, column in (("impressions", "timestamp"), ("events", "timestamp"), ("items", "published_at")):
        table = tables[name]
        if name == "impressions":
            table = table.drop_columns(["split"])
        pq.write_table(table.filter(pc.less(table[column], moment)), scratch / f"{name}.parquet")
    pq.write_table(tables["users"], scratch / "users.parquet")
    (scratch / "images" / "photos.zip").symlink_to(SAMPLE / "photos.zip")
    return scratch.rename(directory)


def _changed(table: str, how: Callable[[pa.Table, pa.Array], pa.Table]) -> Callable[[Path, int], None]:
    """A change to the rows of a table, which gets the rows and which of them are of the day."""

    def change(logs: Path, moment: int) -> None:
        path = logs / f"{table}.parquet"
        rows = pq.read_table(path)
        today = pc.greater_equal(rows["timestamp"], moment) if "timestamp" in rows.column_names else None
        pq.write_table(how(rows, today), path)

    return change


def _half(rows: pa.Table, today: pa.Array) -> pa.Table:
    digit = pc.utf8_slice_codeunits(rows["page_id"], -1)
    return rows.filter(pc.invert(pc.and_(today, pc.less(digit, "5"))))


def _bot(rows: pa.Table, today: pa.Array) -> pa.Table:
    of_day = rows.filter(today)
    clicks = 2 * pc.sum(of_day["clicked"]).as_py()
    copied = of_day.slice(0, clicks).to_pydict()
    count = len(copied["page_id"])
    copied |= {"user_id": ["u00001"] * count, "page_id": [f"bot{n // 20}" for n in range(count)]}
    copied |= {"clicked": [1] * count, "position": [n % 20 for n in range(count)]}
    return pa.concat_tables([rows, pa.table(copied, rows.schema)])


def _unknown(rows: pa.Table, today: pa.Array) -> pa.Table:
    lost = pc.and_(today, pc.less(rows["position"], 2))
    ids = pc.if_else(lost, pc.binary_join_element_wise("new-", rows["item_id"], ""), rows["item_id"])
    return rows.set_column(rows.schema.get_field_index("item_id"), "item_id", ids)


BAD_DAYS: dict[str, Callable[[Path, int], None]] = {
    "empty logs": _changed("impressions", lambda rows, today: rows.filter(pc.invert(today))),
    "half the volume": _changed("impressions", _half),
    "no pictures": _changed("items", lambda rows, _: rows.set_column(3, "image", pa.array([""] * len(rows)))),
    "clicks tripled by a bot": _changed("impressions", _bot),
    "duplicates": _changed(
        "impressions", lambda rows, today: pa.concat_tables([rows, rows.filter(today).slice(0, 900)])
    ),
    "join rate falls": _changed("impressions", _unknown),
}
"""What goes wrong, to what changes the logs of a day: a copy of the directory, and the day's first moment."""
