import csv
import gzip
import io
import json
import zipfile
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from beam_pipelines import BuildOptions, build_dataset
from beam_pipelines.datasets.movielens_logs import NOTICE, write_movielens_logs
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.shell.progress import shown_progress
from tests.beam_pipelines.gauc import gauc
from tests.beam_pipelines.page_reference import comparable, decode_page, reference_pages, without_statistics

START = 1_000_000_000  # seconds
# user, film, seconds after START, rating
RATINGS = [
    ("1", "10", 0, 4.0),
    ("1", "20", 1800, 3.5),  # exactly half an hour: no pause yet
    ("1", "30", 1800, 5.0),
    ("1", "20", 3601, 4.5),
    ("2", "20", 100, 0.5),
]
MOVIES = [
    ("10", "Up (Down) (1995)", "Adventure|Comedy"),
    ("20", 'Quote, "unquote" (2001) ', "Drama"),
    ("30", "No year", "(no genres listed)"),
]


def jpeg(number):
    file = io.BytesIO()
    Image.new("RGB", (8, 12), (number, 20, 30)).save(file, "JPEG")
    return file.getvalue()


def make_source(path, *, posters=True):
    """With posters the layout of the collection that has them (.gz, extra columns, zip), else that of MovieLens."""
    path.mkdir()
    ratings = [(user, film, rating, START + time) for user, film, time, rating in RATINGS]
    tables = {
        "ratings": (("userId", "movieId", "rating", "timestamp"), ratings, "has_poster", 1),
        "movies": (("movieId", "title", "genres"), MOVIES, "poster_source", "a/b"),
    }
    for name, (header, rows, extra, value) in tables.items():
        if posters:
            header, rows = (*header, extra), [(*row, value) for row in rows]
        with (gzip.open if posters else open)(path / f"{name}.csv{'.gz' if posters else ''}", "wt", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    if posters:
        (path / "images").mkdir()
        with zipfile.ZipFile(path / "images" / "posters-00.zip", "w") as file:
            file.writestr("10.jpg", jpeg(10))
            file.writestr("20.jpg", jpeg(20))
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "with posters"])
def source(request, tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("movielens") / "source", posters=request.param)


@pytest.fixture(scope="module")
def logs(source):
    write_movielens_logs(source, source.parent / "logs")
    return source.parent / "logs"


def read(logs, table):
    return pq.read_table(logs / f"{table}.parquet").to_pylist()


def test_a_page_is_a_session_and_a_like_is_a_click(logs):
    pages = defaultdict(list)
    for row in read(logs, "impressions"):
        seconds = row["timestamp"] / 1000 - START
        pages[row["page_id"]].append((row["user_id"], row["item_id"], seconds, row["position"], row["clicked"]))
    assert pages == {
        f"1-{START}": [("1", "10", 0, 0, True), ("1", "20", 1800, 1, False), ("1", "30", 1800, 2, True)],
        f"1-{START + 3601}": [("1", "20", 3601, 0, True)],
        f"2-{START + 100}": [("2", "20", 100, 0, False)],
    }


@pytest.mark.parametrize(("like", "clicked"), [(0.5, 5), (4, 3), (4.5, 2), (5, 1)])
def test_like_is_an_option(source, tmp_path, like, clicked):
    logs = write_movielens_logs(source, tmp_path / "logs", like=like)
    assert (logs.pages, logs.impressions, logs.clicks, logs.users, logs.items) == (3, 5, clicked, 2, 3)


def test_films(source, logs):
    posters = ["10.jpg", "20.jpg", None] if (source / "images").is_dir() else [None] * 3
    fields = ("item_id", "category", "title", "image", "stat_year", "label_first_genre")
    assert [tuple(row[name] for name in fields) for row in read(logs, "items")] == [
        ("10", "Adventure|Comedy", "Up (Down) (1995)", posters[0], 1995.0, "Adventure"),
        ("20", "Drama", 'Quote, "unquote" (2001) ', posters[1], 2001.0, "Drama"),
        ("30", None, "No year", posters[2], None, None),
    ]
    assert (logs / "images").is_dir() == (source / "images").is_dir()
    assert json.loads((logs / "logs.json").read_text())["notice"].startswith("rated, liked or not")


def test_both_layouts_build(source, logs, tmp_path):
    options = BuildOptions(split_by_time=("2000-01-01", "2001-09-09T02:00"))
    manifest = build_dataset(logs, tmp_path / "dataset", options)
    assert {name: split.pages for name, split in manifest.splits.items()} == {"train": 2, "test": 1}
    assert (manifest.images.stored if manifest.images else 0) == (2 if (source / "images").is_dir() else 0)


def grouplens(path, files):
    """An archive as GroupLens publishes it: everything in one folder, and a README."""
    folder = path.stem
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{folder}/", "")
        for name, content in {"README.txt": "Summary", **files}.items():
            archive.writestr(f"{folder}/{name}", content)
    return path


def table_text(rows, separator, header=""):
    return "".join(
        f"{line}\n" for line in ([header] if header else []) + [separator.join(map(str, row)) for row in rows]
    )


ORDER = [(user, film, rating, START + time) for user, film, time, rating in RATINGS]


def test_the_archive_of_csv_files(tmp_path, capsys):
    films = [("10", '"Up (Down) (1995)"', "Adventure|Comedy"), ("20", "Plain (2001)", "Drama"), *MOVIES[2:]]
    source = grouplens(
        tmp_path / "ml-latest-small.zip",
        {
            "ratings.csv": table_text(ORDER, ",", "userId,movieId,rating,timestamp"),
            "movies.csv": table_text(films, ",", "movieId,title,genres"),
            "links.csv": table_text([(10, "0114709", 862)], ",", "movieId,imdbId,tmdbId"),
        },
    )
    with shown_progress():
        logs = write_movielens_logs(source, tmp_path / "logs")
    assert "not read: README.txt, links.csv\n" in capsys.readouterr().out
    assert logs[:6] == (3, 5, 3, 0, 2, 3)
    assert logs.counters["rows of ratings.csv"] == logs.impressions
    assert [row["title"] for row in read(tmp_path / "logs", "items")] == ["Up (Down) (1995)", "Plain (2001)", "No year"]
    assert not (tmp_path / "logs" / "images").exists()


def test_the_archive_of_dat_files_with_users_and_latin_1(tmp_path):
    films = [("10", '"Great: Up" Mis\xe9rables (1995)', "Animation|Children's"), *MOVIES[1:]]
    source = grouplens(
        tmp_path / "ml-1m.zip",
        {
            "ratings.dat": table_text(
                [(user, film, max(1, int(stars)), time) for user, film, stars, time in ORDER], "::"
            ),
            "movies.dat": table_text(films, "::").encode("latin-1"),
            "users.dat": table_text([(1, "F", 1, 10, "48067"), (2, "M", 56, 16, "02460-1550")], "::"),
        },
    )
    logs = write_movielens_logs(source, tmp_path / "logs")
    assert logs[:6] == (3, 5, 3, 0, 2, 3)
    items = read(tmp_path / "logs", "items")
    assert (items[0]["title"], items[0]["category"], items[0]["stat_year"]) == (
        films[0][1],
        "Animation|Children's",
        1995,
    )
    assert items[1]["title"] == 'Quote, "unquote" (2001) '
    assert read(tmp_path / "logs", "users") == [
        {"user_id": "1", "cat_gender": "F", "cat_age": "1", "cat_occupation": "10"},
        {"user_id": "2", "cat_gender": "M", "cat_age": "56", "cat_occupation": "16"},
    ]


def test_the_archive_of_dat_files_without_users_and_utf_8(tmp_path):
    source = grouplens(
        tmp_path / "ml-10M100K.zip",
        {
            "ratings.dat": table_text(ORDER, "::"),
            "movies.dat": "10::Mis\xe9rables (1995)::Drama\n20::B::Drama\n".encode(),
        },
    )
    logs = write_movielens_logs(source, tmp_path / "logs")
    assert logs[:6] == (3, 5, 3, 0, 2, 2)
    assert logs.counters["ratings of films that the catalogue lacks"] == 1
    assert read(tmp_path / "logs", "items")[0]["title"] == "Mis\xe9rables (1995)"
    assert not (tmp_path / "logs" / "users.parquet").exists()


def test_the_archive_of_ml_100k(tmp_path):
    flags = {"10": (0, 1, 0, 0, 0, 1, *[0] * 13), "20": (0,) * 18 + (1,), "30": (1, *[0] * 18)}
    films = [(film, title, "01-Jan-1995", "", "http://x", *flags[film]) for film, title, _ in MOVIES]
    source = grouplens(
        tmp_path / "ml-100k.zip",
        {
            "u.data": table_text([(user, film, max(1, int(stars)), time) for user, film, stars, time in ORDER], "\t"),
            "u.item": table_text([(films[0][0], "Mis\xe9rables (1995)", *films[0][2:]), *films[1:]], "|").encode(
                "latin-1"
            ),
            "u.user": table_text([(1, 24, "F", "other", "85711"), (2, 53, "M", "none", "E2A4H")], "|"),
            "u1.base": "",
        },
    )
    assert write_movielens_logs(source, tmp_path / "logs")[:6] == (3, 5, 3, 0, 2, 3)
    items = [(row["item_id"], row["title"], row["category"]) for row in read(tmp_path / "logs", "items")]
    assert items == [
        ("10", "Mis\xe9rables (1995)", "Action|Comedy"),
        ("20", MOVIES[1][1], "Western"),
        ("30", "No year", None),
    ]
    assert read(tmp_path / "logs", "users")[1] == {
        "user_id": "2",
        "cat_gender": "M",
        "cat_age": "53",
        "cat_occupation": "none",
    }


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ("1::10::5\n", "ratings.dat, line 1 has 3 values, not 4"),
        ("1::10::5::978300760000\n", "column 'timestamp' must be seconds since 1970"),
        ("1::10::50::978300760\n", "a rating must be between 0.5 and 5. Received: 50"),
        ("1::10::5::978300760\n1::10::five::978300760\n", "line 2: column 'rating' holds 'five', no double"),
    ],
)
def test_ratings_that_are_none(tmp_path, ratings, message):
    source = grouplens(tmp_path / "ml-1m.zip", {"ratings.dat": ratings, "movies.dat": "10::A (1995)::Drama\n"})
    with pytest.raises(InputError, match=message):
        write_movielens_logs(source, tmp_path / "logs")
    assert [path.name for path in tmp_path.iterdir()] == ["ml-1m.zip"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            lambda source: (source / "movies.csv.gz").unlink(),
            r"no movies.csv in .*; expected .*ratings.csv, movies.csv .*; found ratings.csv.gz",
        ),
        (lambda source: (source / "movies.csv.gz").write_bytes(b"no gzip"), "movies.csv.gz cannot be read"),
        (lambda source: (source / "ratings.csv").write_text("userId,movieId,timestamp\n1,1,1\n"), "no column 'rating'"),
        (lambda source: (source / "images" / "posters-00.zip").write_bytes(b"no"), "posters-00.zip cannot be read"),
        (lambda source: (source / "images" / "posters-00.zip").unlink(), "no .jpg and no .zip"),
    ],
)
def test_a_broken_source_is_one_clear_line(tmp_path, broken, message):
    source = make_source(tmp_path / "source")
    broken(source)
    with pytest.raises(InputError, match=message) as error:
        write_movielens_logs(source, tmp_path / "logs")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("like", [0, 6, float("nan")])
def test_like_is_a_rating(tmp_path, like):
    with pytest.raises(InputError, match=f"`like` .*Received: {like}"):
        write_movielens_logs(tmp_path, tmp_path / "logs", like=like)


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    source, work = shared_data("movielens_posters"), tmp_path_factory.mktemp("movielens_real")
    write_movielens_logs(source, work / "logs")
    build_dataset(work / "logs", work / "dataset", BuildOptions(split_by_time=("2007-01-01", "2015-01-01")))
    return work


def test_real_rows_and_posters_all_arrive(real):
    manifest = Manifest.read(real / "dataset")
    counters = manifest.counters
    assert not [name for name in counters if name.startswith("rejected.")]
    assert (counters["rows.impressions"], counters["rows.items"], counters["users.only_in_logs"]) == (80_116, 9724, 610)
    assert (
        counters["impressions.conflicting"] == counters["impressions.duplicate"] == counters["items.only_in_logs"] == 0
    )
    assert {name: (split.pages, split.impressions, split.clicks) for name, split in manifest.splits.items()} == {
        "pretrain": (2242, 37_502, 18_750),
        "train": (1582, 21_298, 9968),
        "test": (688, 21_297, 10_164),
    }
    assert counters["pages.candidates_cut"] == 80_116 - 37_502 - 21_298 - 21_297 == 19  # one evening of 1019 ratings
    assert (manifest.images.items_with_image, manifest.images.missing) == (2516, {"no image named": 9724 - 2516})
    assert manifest.notice == NOTICE


def test_real_pages_have_both_classes_and_no_order_gives_them_away(real):
    impressions = pq.read_table(real / "logs" / "impressions.parquet")
    page = impressions["page_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    clicked = impressions["clicked"].to_numpy(zero_copy_only=False)
    clicks, rated = np.bincount(page, clicked), np.bincount(page)
    assert len(rated) == 4512
    assert ((clicks > 0) & (clicks < rated)).sum() == 2051
    assert clicked.mean() == pytest.approx(0.485, abs=5e-4)
    assert gauc(page, clicked, impressions["position"].to_numpy()) == pytest.approx(0.5, abs=0.04)


def test_real_pages_are_what_the_reference_says(real):
    chosen = {str(user) for user in range(1, 611, 20)}
    rows = [row for row in read(real / "logs", "impressions") if row["user_id"] in chosen]
    expected = {}
    for user in chosen:  # pages of one user at a time: the reference compares all with all
        expected |= reference_pages([row for row in rows if row["user_id"] == user], [], with_statistics=False)[0]
    ids = [
        pq.read_table(real / "dataset" / path).column(0).to_pylist()
        for path in ("items/items.parquet", "users/users.parquet")
    ]
    found = {}
    for shard in sorted((real / "dataset" / "pages").iterdir()):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            page_id, page = decode_page(record, *ids)
            if page["user"] in chosen:
                found[page_id] = without_statistics(page)
    assert len(expected) > 100
    assert found == {page_id: comparable(page) for page_id, page in expected.items()}
