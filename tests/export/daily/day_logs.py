"""Logs of single days: simulated shoppers of the sample, each day with the clicks before it as events."""

import datetime
import shutil
import zipfile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.datasets.sample_logs import SAMPLE, read_labels, simulate

PHOTOS, USERS, PAGES = 120, 50, 1500
FIRST_DAY = datetime.date(2024, 3, 22)
"""Before it, the sample's logs of `published_sample` have most of their pages."""


def simulated():
    """The tables of all days; the last items arrive in the days of the tests."""
    images, garments = zip(*read_labels(SAMPLE)[:PHOTOS], strict=True)
    with zipfile.ZipFile(SAMPLE / "photos.zip") as source:
        photos = [source.read(image) for image in images]
    return simulate(photos, garments, images, USERS, PAGES, 1)


def write_day(tables, directory, day):
    """Writes the logs of one day."""
    start = pa.scalar(int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp() * 1000))
    shown = tables["impressions"].drop_columns(["split"])
    events = tables["events"]
    end = pc.add(start, 86_400_000)
    directory.mkdir(parents=True)
    for name, rows in (("impressions", shown), ("events", events)):
        pq.write_table(rows.filter(pc.less(rows["timestamp"], end)), directory / f"{name}.parquet")
    pq.write_table(tables["items"].filter(pc.less(tables["items"]["published_at"], end)), directory / "items.parquet")
    pq.write_table(tables["users"], directory / "users.parquet")
    (directory / "images").mkdir()
    shutil.copyfile(SAMPLE / "photos.zip", directory / "images" / "photos.zip")
    return directory
