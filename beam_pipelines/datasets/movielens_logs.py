"""MovieLens' ratings as a log directory: real likes and dislikes, with film posters where there are some.

Read are the archives that GroupLens publishes, or what they unpack to: ml-latest-small, ml-latest, ml-20m, ml-25m and
ml-32m (CSV), ml-1m and ml-10m (`.dat`), ml-100k (`u.data`).

A page is a user's ratings without a pause of more than half an hour, in the order in which they were given, and a
rating of at least `like` is a click. Users chose what to rate, so a page is no list that somebody ranked for them;
every report on these logs says so.

A film's category is all its genres, which the source lists by the alphabet: the first of them means nothing. It has no
publication time, as titles tell only the year. Only ml-1m and ml-100k tell anything of users; postal codes are not
read.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.datasets.log_writer import LogSummary, log_writer
from beam_pipelines.datasets.session_pages import SessionPages, cut_sessions
from beam_pipelines.datasets.source_files import Pictures, SourceFiles
from beam_pipelines.datasets.source_tables import Format, Layout, SourceTable, TableFile, find_layout, say_unread
from beam_pipelines.datasets.user_buckets import user_buckets
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory

NOTICE = (
    "rated, liked or not: not an impression log; a page is a user's ratings without a pause of half an hour, and films "
    "were chosen by who rated them"
)
_GAP = 1800  # seconds
_RATINGS = pa.schema(
    [
        pa.field("userId", pa.string(), nullable=False),
        pa.field("movieId", pa.string(), nullable=False),
        pa.field("rating", pa.float64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
    ]
)
_MOVIES = pa.schema(
    [
        pa.field("movieId", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("genres", pa.string()),
    ]
)
_GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The flags of a film in ml-100k, in their order."""
_USERS = pa.schema(
    [
        pa.field("userId", pa.string(), nullable=False),
        pa.field("gender", pa.string()),
        pa.field("age", pa.string()),
        pa.field("occupation", pa.string()),
    ]
)


def _dat(*columns: str) -> Format:
    """No header, no quotes, and titles in Latin-1 (ml-1m) or UTF-8 (ml-10m)."""
    return Format(b"::", columns, quoted=False, encoding="latin-1")


LAYOUTS = (
    Layout(
        "ml-latest-small, ml-latest, ml-20m, ml-25m or ml-32m",
        {"ratings": TableFile("ratings.csv", _RATINGS), "movies": TableFile("movies.csv", _MOVIES)},
    ),
    Layout(
        "ml-1m or ml-10m",
        {
            "ratings": TableFile("ratings.dat", _RATINGS, format=_dat(*_RATINGS.names)),
            "movies": TableFile("movies.dat", _MOVIES, format=_dat(*_MOVIES.names)),
            "users": TableFile("users.dat", _USERS, required=False, format=_dat(*_USERS.names, "zip")),
        },
    ),
    Layout(
        "ml-100k",
        {
            "ratings": TableFile("u.data", _RATINGS, format=Format(b"\t", tuple(_RATINGS.names), quoted=False)),
            "movies": TableFile(
                "u.item",
                pa.schema([*_MOVIES][:2] + [pa.field(name, pa.int64(), nullable=False) for name in _GENRES]),
                format=Format(b"|", (*_MOVIES.names[:2], "date", "video", "url", *_GENRES), False, "latin-1"),
            ),
            "users": TableFile(
                "u.user", _USERS, format=Format(b"|", ("userId", "age", "gender", "occupation", "zip"), quoted=False)
            ),
        },
    ),
)


def to_impressions(ratings: pa.Table, like: float) -> tuple[pa.Table, SessionPages]:
    """Puts ratings into pages; the table is by user, then time."""
    time = ratings["timestamp"].to_numpy()
    pages = cut_sessions(ratings["user_id"], time, ratings["movieId"], _GAP)
    page_id = pages.ids(ratings["user_id"], time)
    ratings = ratings.take(pa.array(pages.order))
    table = pa.table(
        {
            "page_id": page_id,
            "user_id": ratings["user_id"],
            "item_id": ratings["movieId"],
            "timestamp": pc.multiply(ratings["timestamp"], 1000),
            "position": pages.position,
            "clicked": pc.greater_equal(ratings["rating"], like),
        }
    )
    return table, pages


def join_genres(movies: pa.Table) -> pa.Table:
    """Turns ml-100k's flags of genres into lists as the other editions have them."""
    flags = np.stack([movies[name].to_numpy() == 1 for name in _GENRES[1:]], axis=1)
    genres = ["|".join(np.array(_GENRES[1:])[row]) or None for row in flags]
    return movies.select(_MOVIES.names[:2]).append_column("genres", pa.array(genres, pa.string()))


def to_items(movies: pa.Table, pictures: Pictures) -> pa.Table:
    """Names the films' columns as the input contract does."""
    none = pa.scalar(None, pa.string())
    genres = pc.if_else(pc.equal(movies["genres"], "(no genres listed)"), none, movies["genres"])
    year = pc.struct_field(pc.extract_regex(movies["title"], r"\((?P<year>\d{4})\)\s*$"), "year")
    return pa.table(
        {
            "item_id": movies["movieId"],
            "category": genres,
            "title": movies["title"],
            "image": pa.array([pictures.paths.get(film) for film in movies["movieId"].to_pylist()], pa.string()),
            "stat_year": year.cast(pa.float64()),
            "label_first_genre": pc.replace_substring_regex(genres, r"\|.*", ""),
        }
    )


def to_users(users: pa.Table) -> pa.Table:
    """Names the users' columns as the input contract does; an age is a group in ml-1m, years in ml-100k."""
    features = {f"cat_{name}": users[name] for name in ("gender", "age", "occupation")}
    return pa.table({"user_id": users["userId"], **features})


def write_movielens_logs(
    source: Path, output: Location | str, *, like: float = 4.0, overwrite: bool = False
) -> LogSummary:
    """Writes a log directory from MovieLens' tables.

    Args:
        source: folder or archive (.zip) with ratings.csv and movies.csv, with ratings.dat, movies.dat and, if there are
            any, users.dat, or with u.data, u.item and u.user; beside them may be images/ with MOVIEID.jpg (files or
            .zip).
        output: log directory to make.
        like: ratings from here on are clicks, in stars.
        overwrite: whether an existing output is replaced.

    Raises:
        InputError: an argument or a file of the source cannot be used.
    """
    if not 0.5 <= like <= 5:
        raise InputError(f"`like` must be a rating, between 0.5 and 5. Received: {like:g}")
    with SourceFiles(source, "downloading MovieLens") as files:
        _, folder, tables = find_layout(files, LAYOUTS)
        say_unread(files, folder, list(tables.values()))
        pages = impressions = clicks = users = both = pictured_ratings = unknown = 0
        with (
            whole_directory(as_location(output), overwrite=overwrite, inputs=[source]) as directory,
            log_writer(directory, NOTICE) as writer,
        ):
            pictures = files.pictures(folder)
            movies = tables["movies"].read()
            items = to_items(movies if "genres" in movies.column_names else join_genres(movies), pictures)
            writer.append("items", items)
            pictured = items.filter(items["image"].is_valid())["item_id"]
            for ratings in user_buckets(_ratings(tables["ratings"]), directory):
                part, cut = to_impressions(ratings, like)
                writer.append("impressions", part)
                clicked = part["clicked"].to_numpy()
                pages += len(cut.start)
                impressions += len(part)
                clicks += int(clicked.sum())
                users += pc.count_distinct(part["user_id"]).as_py()
                both += cut.with_both_classes(clicked)
                unknown += len(part) - pc.sum(pc.is_in(part["item_id"], items["item_id"])).as_py()
                pictured_ratings += pc.sum(pc.is_in(part["item_id"], pictured)).as_py()
            if "users" in tables:
                writer.append("users", to_users(tables["users"].read()))
            pictures.link(directory / "images")
    return LogSummary(
        pages=pages,
        impressions=impressions,
        clicks=clicks,
        events=0,
        users=users,
        items=len(items),
        counters={
            **{f"rows of {table.name}": table.rows for table in tables.values()},
            "pages with both a like and a dislike": both,
            "ratings of films that the catalogue lacks": unknown,
            "films with a poster": len(pictured),
            "ratings of films with a poster": pictured_ratings,
        },
    )


def _ratings(table: SourceTable) -> Iterator[pa.RecordBatch]:
    for batch in table.batches():
        table.check_times("timestamp", batch["timestamp"], per_second=1)
        stars = batch["rating"].to_numpy()
        if (wrong := (stars < 0.5) | (stars > 5)).any():
            raise InputError(f"{table.name}: a rating must be between 0.5 and 5. Received: {stars[wrong][0]:g}")
        yield batch.rename_columns(["user_id", *batch.schema.names[1:]])
