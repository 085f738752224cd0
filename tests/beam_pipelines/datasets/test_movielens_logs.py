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
    posters = ["10.jpg", "20.jpg", ""] if (source / "images").is_dir() else [""] * 3
    fields = ("item_id", "category", "title", "image", "stat_year", "label_first_genre")
    assert [tuple(row[name] for name in fields) for row in read(logs, "items")] == [
        ("10", "Adventure|Comedy", "Up (Down) (1995)", posters[0], 1995.0, "Adventure"),
        ("20", "Drama", 'Quote, "unquote" (2001) ', posters[1], 2001.0, "Drama"),
        ("30", "", "No year", posters[2], None, ""),
    ]
    assert (logs / "images").is_dir() == (source / "images").is_dir()
    assert json.loads((logs / "logs.json").read_text())["notice"].startswith("rated, liked or not")


def test_both_layouts_build(source, logs, tmp_path):
    options = BuildOptions(split_by_time=("2000-01-01", "2001-09-09T02:00"))
    manifest = build_dataset(logs, tmp_path / "dataset", options)
    assert {name: split.pages for name, split in manifest.splits.items()} == {"train": 2, "test": 1}
    assert (manifest.images.stored if manifest.images else 0) == (2 if (source / "images").is_dir() else 0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda source: (source / "movies.csv.gz").unlink(), "no movies.csv or movies.csv.gz"),
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
