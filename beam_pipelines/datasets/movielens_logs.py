"""MovieLens' ratings as a log directory: real likes and dislikes, with film posters where there are some.

A page is a user's ratings without a pause of more than half an hour, in the order in which they were given, and a
rating of at least `like` is a click. Users chose what to rate, so a page is no list that somebody ranked for them;
every report on these logs says so.

A film's category is all its genres, which the source lists by the alphabet: the first of them means nothing. It has no
publication time, as titles tell only the year.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.datasets.log_writer import LogSummary, write_logs
from beam_pipelines.datasets.session_pages import SessionPages, cut_sessions
from beam_pipelines.datasets.source_files import find_images, find_tables, link_files, read_table, require_source
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.outputs import whole_directory

NOTICE = (
    "rated, liked or not: not an impression log; a page is a user's ratings without a pause of half an hour, and films "
    "were chosen by who rated them"
)
_GAP = 1800  # seconds
_TABLES = {
    "ratings": pa.schema(
        [
            pa.field("userId", pa.string(), nullable=False),
            pa.field("movieId", pa.string(), nullable=False),
            pa.field("rating", pa.float64(), nullable=False),
            pa.field("timestamp", pa.int64(), nullable=False),
        ]
    ),
    "movies": pa.schema(
        [
            pa.field("movieId", pa.string(), nullable=False),
            pa.field("title", pa.string()),
            pa.field("genres", pa.string()),
        ]
    ),
}


def to_impressions(ratings: pa.Table, like: float) -> tuple[pa.Table, SessionPages]:
    """Puts ratings into pages; the table is by user, then time."""
    time = ratings["timestamp"].to_numpy()
    pages = cut_sessions(ratings["userId"], time, ratings["movieId"], _GAP)
    page_id = pages.ids(ratings["userId"], time)
    ratings = ratings.take(pa.array(pages.order))
    table = pa.table(
        {
            "page_id": page_id,
            "user_id": ratings["userId"],
            "item_id": ratings["movieId"],
            "timestamp": pc.multiply(ratings["timestamp"], 1000),
            "position": pages.position,
            "clicked": pc.greater_equal(ratings["rating"], like),
        }
    )
    return table, pages


def to_items(movies: pa.Table, images: Mapping[str, str]) -> pa.Table:
    """Names the films' columns as the input contract does."""
    genres = pc.fill_null(movies["genres"], "")
    genres = pc.if_else(pc.equal(genres, "(no genres listed)"), "", genres)
    year = pc.struct_field(pc.extract_regex(movies["title"], r"\((?P<year>\d{4})\)\s*$"), "year")
    return pa.table(
        {
            "item_id": movies["movieId"],
            "category": genres,
            "title": movies["title"],
            "image": pa.array([images.get(film, "") for film in movies["movieId"].to_pylist()], pa.string()),
            "stat_year": year.cast(pa.float64()),
            "label_first_genre": pc.replace_substring_regex(genres, r"\|.*", ""),
        }
    )


def write_movielens_logs(source: Path, output: Path, *, like: float = 4.0, overwrite: bool = False) -> LogSummary:
    """Writes a log directory from MovieLens' tables.

    Args:
        source: folder with ratings and movies (.csv or .csv.gz) and, if there are posters, images/ with MOVIEID.jpg
            (files or .zip).
        output: log directory to make.
        like: ratings from here on are clicks, in stars.
        overwrite: whether an existing output is replaced.

    Raises:
        InputError: an argument or a file of the source cannot be used.
    """
    if not 0.5 <= like <= 5:
        raise InputError(f"`like` must be a rating, between 0.5 and 5. Received: {like:g}")
    files = find_tables(require_source(source, "downloading MovieLens"), _TABLES)
    folder = source / "images"

    with whole_directory(output, overwrite=overwrite, inputs=[source]) as directory:
        images, image_files = find_images(folder) if folder.is_dir() else ({}, [])
        ratings, movies = (read_table(files[name], schema) for name, schema in _TABLES.items())
        impressions, pages = to_impressions(ratings, like)
        items = to_items(movies, images)
        write_logs(directory, {"impressions": impressions, "items": items}, NOTICE)
        link_files(image_files, folder, directory / "images")
    clicked = impressions["clicked"].to_numpy()
    pictured = items.filter(pc.not_equal(items["image"], ""))["item_id"]
    return LogSummary(
        pages=len(pages.start),
        impressions=len(impressions),
        clicks=int(clicked.sum()),
        events=0,
        users=pc.count_distinct(ratings["userId"]).as_py(),
        items=len(movies),
        counters={
            "pages with both a like and a dislike": pages.with_both_classes(clicked),
            "films with a poster": len(pictured),
            "ratings of films with a poster": pc.sum(pc.is_in(impressions["item_id"], pictured)).as_py(),
        },
    )
