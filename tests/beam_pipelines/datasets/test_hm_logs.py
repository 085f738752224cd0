import csv
import gzip
import io
import json
import shutil
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from beam_pipelines import BuildOptions, build_dataset
from beam_pipelines.datasets.hm_logs import write_hm_logs
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest
from tests.beam_pipelines.gauc import gauc

DAY = 86_400_000
TYPES = ("Dress", "Trousers", "Hat")
CATALOGUE = (
    *("article_id", "product_code", "prod_name", "product_type_no", "product_type_name", "product_group_name"),
    *("graphical_appearance_no", "graphical_appearance_name", "colour_group_code", "colour_group_name"),
    *("perceived_colour_value_id", "perceived_colour_value_name", "perceived_colour_master_id"),
    *("perceived_colour_master_name", "department_no", "department_name", "index_code", "index_name"),
    *("index_group_no", "index_group_name", "section_no", "section_name", "garment_group_no"),
    *("garment_group_name", "detail_desc"),
)
CUSTOMER = ("customer_id", "FN", "Active", "club_member_status", "fashion_news_frequency", "age", "postal_code")


def read(logs, table):
    """Columns of a table as NumPy arrays."""
    table = pq.read_table(logs / f"{table}.parquet")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def jpeg(number):
    file = io.BytesIO()
    Image.new("RGB", (8, 12), (number % 256, 20, 30)).save(file, "JPEG")
    return file.getvalue()


def make_source(path, *, gz, zipped, articles=120, customers=25, days=90, seed=0):
    """The competition's layout with random purchases; article IDs have leading zeros, and the last has no picture."""
    rng = np.random.default_rng(seed)
    ids = [f"0{100000000 + 7 * n}" for n in range(articles)]
    catalogue = [
        [
            *(i, i[:7], f"Product {n}", 253, TYPES[n % 3], "G", 10, "Solid", "09", "Red", 4, "Dark", 5, "Red", 1676),
            *("Basic", "A", "I", 1, "Ladies", 16, "S", 1002, "GG", 'Top, "jersey"'),
        ]
        for n, i in enumerate(ids)
    ]
    people = [
        (f"c{n:03d}", "1.0" if n % 2 else "", "", "ACTIVE", "NONE", 20 + n if n else "", "p") for n in range(customers)
    ]
    first = np.datetime64("2019-01-01")
    bought = []
    for day in range(days):
        for customer in rng.choice(customers, size=4, replace=False):
            basket = rng.choice(articles, size=rng.integers(1, 16), replace=False)
            bought += [(str(first + day), f"c{customer:03d}", ids[n], 0.1, 2) for n in basket]
            bought.append(bought[-1])  # two pieces of one article
    bought.append((str(first + days - 1), "c000", "0999999999", 0.1, 2))  # not in the catalogue
    path.mkdir()
    for name, header, rows in (
        ("transactions_train", ("t_dat", "customer_id", "article_id", "price", "sales_channel_id"), bought),
        ("articles", CATALOGUE, catalogue),
        ("customers", CUSTOMER, people),
    ):
        opener = gzip.open if gz else open
        with opener(path / f"{name}.csv{'.gz' if gz else ''}", "wt", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    pictures = {f"{i[:3]}/{i}.jpg": jpeg(n) for n, i in enumerate(ids[:-1])}
    (path / "images").mkdir()
    if zipped:
        for shard in range(2):
            with zipfile.ZipFile(path / "images" / f"images-0{shard}.zip", "w") as file:
                for name in list(pictures)[shard::2]:
                    file.writestr(f"images/{name}", pictures[name])
    else:
        for name, picture in pictures.items():
            (path / "images" / name).parent.mkdir(exist_ok=True)
            (path / "images" / name).write_bytes(picture)
    return path


@pytest.fixture(scope="module", params=["plain files, loose pictures", "gz files, zip shards"])
def source(request, tmp_path_factory):
    packed = request.param.startswith("gz")
    return make_source(tmp_path_factory.mktemp("hm") / "source", gz=packed, zipped=packed)


@pytest.fixture(scope="module")
def logs(source):
    write_hm_logs(source, source.parent / "logs", page_size=12)
    return source.parent / "logs"


def transactions(source):
    file = next(source.glob("transactions_train*"))
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt") as rows:
        return [row for row in csv.DictReader(rows) if row["article_id"] != "0999999999"]


def test_pages_are_the_baskets(source, logs):
    baskets = {}
    for row in transactions(source):
        baskets.setdefault((row["customer_id"], row["t_dat"]), set()).add(row["article_id"])
    impressions = read(logs, "impressions")
    assert {f"{customer}-{day}" for customer, day in baskets} == set(impressions["page_id"])
    pages = {}
    for page, item, clicked in zip(*(impressions[name] for name in ("page_id", "item_id", "clicked")), strict=True):
        pages.setdefault(page, []).append((item, clicked))
    for (customer, day), basket in baskets.items():
        page = pages[f"{customer}-{day}"]
        clicked = {item for item, is_clicked in page if is_clicked}
        assert clicked <= basket
        assert len(clicked) == min(len(basket), 6)
        assert not basket & {item for item, is_clicked in page if not is_clicked}
        assert len(page) == len(dict(page)) <= 12


def test_time_is_a_day_so_that_a_day_never_precedes_its_own_pages(source, logs):
    impressions, events = read(logs, "impressions"), read(logs, "events")
    assert (impressions["timestamp"] % DAY == 0).all()
    days = (impressions["timestamp"] // DAY).astype("datetime64[D]").astype(str)
    assert [page.split("-", 1)[1] for page in impressions["page_id"]] == list(days)
    assert set(events["event"]) == {"pay"}
    paid = zip(
        events["user_id"],
        (events["timestamp"] // DAY).astype("datetime64[D]").astype(str),
        events["item_id"],
        strict=True,
    )
    bought = {(row["customer_id"], row["t_dat"], row["article_id"]) for row in transactions(source)}
    assert sorted(paid) == sorted(bought)


def test_tables_meet_the_input_contract(logs):
    items, users, impressions = read(logs, "items"), read(logs, "users"), read(logs, "impressions")
    assert all(len(item) == 10 and item.startswith("0") for item in items["item_id"])
    assert np.isin(impressions["item_id"], items["item_id"]).all()
    assert set(items["category"]) == set(TYPES)
    assert set(items["cat_colour"]) == set(items["label_colour"]) == {"Red"}
    assert "published_at" not in items
    assert "split" not in impressions
    assert np.isnan(users["stat_age"][0])
    assert users["stat_age"][1] == 21
    assert list(users["stat_fashion_news"][:2]) == [0, 1]
    assert json.loads((logs / "logs.json").read_text())["notice"].startswith("sampled negatives")


def test_every_picture_is_there(logs):
    items = read(logs, "items")
    shards = [zipfile.ZipFile(path) for path in (logs / "images").glob("*.zip")]
    stored = {name for shard in shards for name in shard.namelist()} or {
        path.relative_to(logs / "images").as_posix() for path in (logs / "images").rglob("*.jpg")
    }
    assert items["image"][-1] is None
    assert set(items["image"][:-1]) == stored


def kaggle_zip(source, path):
    """The one zip that Kaggle gives: the competition's files, compressed, with pictures in images/010/..."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(source))
        archive.writestr("sample_submission.csv", "customer_id,prediction\nc000,0706016001\n")
    return path


def test_kaggles_zip_makes_the_same_logs_and_is_their_shard_of_pictures(tmp_path):
    source = make_source(tmp_path / "source", gz=False, zipped=False, articles=30, customers=5, days=5)
    archive = kaggle_zip(source, tmp_path / "h-and-m-personalized-fashion-recommendations.zip")
    made = write_hm_logs(archive, tmp_path / "from_zip", page_size=6)
    assert made == write_hm_logs(source, tmp_path / "from_folder", page_size=6)
    for table in ("impressions", "events", "users"):
        ours, theirs = (pq.read_table(tmp_path / name / f"{table}.parquet") for name in ("from_zip", "from_folder"))
        assert ours.equals(theirs)
    assert (tmp_path / "from_zip" / "images" / archive.name).samefile(archive)
    options = BuildOptions(split_by_time=("2019-01-03", "2019-01-05"))
    build_dataset(tmp_path / "from_zip", tmp_path / "dataset", options)
    images = Manifest.read(tmp_path / "dataset").images
    assert (images.items_with_image, images.missing) == (29, {"no image named": 1})


def test_files_that_kaggle_gives_one_by_one_are_zipped_alone(tmp_path):
    source = make_source(tmp_path / "source", gz=False, zipped=False, articles=30, customers=5, days=5)
    expected = write_hm_logs(source, tmp_path / "logs", page_size=6)
    for name in ("articles", "transactions_train"):
        with zipfile.ZipFile(source / f"{name}.csv.zip", "w") as archive:
            archive.write(source / f"{name}.csv", f"{name}.csv")
        (source / f"{name}.csv").unlink()
    logs = write_hm_logs(source, tmp_path / "again", page_size=6)
    assert logs[:-1] == expected[:-1]


def test_tables_alone_make_logs_without_pictures(tmp_path):
    source = make_source(tmp_path / "source", gz=False, zipped=False, articles=30, customers=5, days=5)
    shutil.rmtree(source / "images")
    with pytest.warns(UserWarning, match=r"no images/ beside articles\.csv: no article has a picture"):
        logs = write_hm_logs(source, tmp_path / "logs", page_size=6)
    assert logs.counters["articles without a picture"] == 30
    assert read(tmp_path / "logs", "items")["image"].tolist() == [None] * 30


def test_every_purchase_is_accounted_for(source, tmp_path):
    logs = write_hm_logs(source, tmp_path / "logs", page_size=12)
    counters = logs.counters
    ending = ".gz" if (source / "articles.csv.gz").exists() else ""
    assert counters[f"rows of transactions_train.csv{ending}"] == (
        logs.events
        + counters["purchases of articles that the catalogue lacks, left out"]
        + counters["further pieces of one article in a basket, counted once"]
    )
    assert logs.events == logs.clicks + counters["bought articles cut from their page"]
    assert counters["articles without a picture"] == 1
    assert counters["buyers that customers lacks"] == counters["pictures of articles that the catalogue lacks"] == 0


def test_positions_are_a_shuffle(logs):
    impressions = read(logs, "impressions")
    for page in np.unique(impressions["page_id"]):
        position = impressions["position"][impressions["page_id"] == page]
        assert sorted(position) == list(range(len(position)))
    assert gauc(impressions["page_id"], impressions["clicked"], impressions["position"]) == pytest.approx(0.5, abs=0.06)


def test_same_seed_same_tables(source, logs, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        write_hm_logs(source, tmp_path / name, page_size=12, seed=seed)
    for table in ("impressions", "events", "items", "users"):
        assert pq.read_table(tmp_path / "same" / f"{table}.parquet").equals(pq.read_table(logs / f"{table}.parquet"))
    other = pq.read_table(tmp_path / "other" / "impressions.parquet")
    assert not other.equals(pq.read_table(logs / "impressions.parquet"))


def resave(source, table, change):
    path = source / f"{table}.csv"
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda source: (source / "articles.csv").unlink(), "articles.csv"),
        (lambda source: (source / "customers.csv").write_text("customer_id,age\nc,1\n"), "FN"),
        (
            lambda source: (source / "transactions_train.csv").write_text("t_dat,customer_id,article_id\nMay,c,1\n"),
            "t_dat|date32",
        ),
        (lambda source: (source / "articles.csv").write_bytes(b""), "articles.csv"),
        (lambda source: [path.unlink() for path in (source / "images").rglob("*.jpg")], "images"),
        (
            lambda source: resave(source, "articles", lambda text: text.replace("\n0", "\n")),
            r"articles.csv: article_id '100000000' has not 10 digits .* loses it",
        ),
        (
            lambda source: resave(source, "transactions_train", lambda text: text.replace(",01", ",1")),
            r"transactions_train.csv: article_id '1000\d+' has not 10 digits",
        ),
        (
            lambda source: [path.rename(path.with_name(f"x{path.name}")) for path in source.rglob("*.jpg")],
            r"pictures are called as x0\d+.jpg, articles as 0100000000",
        ),
        (
            lambda source: resave(source, "customers", lambda text: text.replace("c003", '"c003')),
            "customers.csv.*, line 5: a quote that opens is not closed",
        ),
        (lambda source: (source / "images" / "a.zip").write_bytes(b"PK no"), "a.zip"),
    ],
)
def test_a_broken_source_is_one_clear_line(tmp_path, broken, message):
    source = make_source(tmp_path / "source", gz=False, zipped=False, articles=20, customers=5, days=3)
    broken(source)
    with pytest.raises(InputError, match=message):
        write_hm_logs(source, tmp_path / "logs")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(("argument", "value"), [("page_size", 1), ("seed", -1)])
def test_a_wrong_argument_is_named(tmp_path, argument, value):
    with pytest.raises(InputError, match=f"`{argument}` must .*Received: {value}"):
        write_hm_logs(tmp_path, tmp_path / "logs", **{argument: value})


@pytest.fixture(scope="module")
def real_pages(shared_data, tmp_path_factory):
    """Pages on the real data and, per candidate, everything that counting the past tells."""
    source = shared_data("hm_fashion")
    logs = tmp_path_factory.mktemp("hm") / "real"
    write_hm_logs(source, logs)
    impressions, events = read(logs, "impressions"), read(logs, "events")
    item = np.unique(np.concatenate([impressions["item_id"], events["item_id"]]), return_inverse=True)[1]
    item, paid_item = item[: len(impressions["item_id"])], item[len(impressions["item_id"]) :]
    day, paid_day = impressions["timestamp"] // DAY, events["timestamp"] // DAY
    start = paid_day.min() - 1000  # a day before all others, so that one number can hold item and day
    unclicked = impressions["clicked"] == 0

    def before(of_item, of_day, days=0):
        keys = np.sort(of_item * 10_000 + (of_day - start))
        count = np.searchsorted(keys, item * 10_000 + (day - days - start)) - np.searchsorted(keys, item * 10_000)
        newest = np.where(count > 0, keys[np.searchsorted(keys, item * 10_000) + count - 1] % 10_000 + start, 0)
        return count, np.where(count > 0, day - newest, 9999)

    bought, since = before(paid_item, paid_day)
    shown, _ = before(item[unclicked], day[unclicked])
    return {
        "page": impressions["page_id"],
        "day": day,
        "clicked": impressions["clicked"],
        "counts": {
            "28 days": bought - before(paid_item, paid_day, 28)[0],
            "7 days": bought - before(paid_item, paid_day, 7)[0],
            "ever": (bought > 0).astype(int),
            "total": bought,
            "days since the last": since,
        },
        "shown without a click": shown,
    }


def test_no_count_of_the_past_ranks_real_pages(real_pages):
    later = real_pages["day"] > np.quantile(real_pages["day"], 0.7)
    for name, count in real_pages["counts"].items():
        score = gauc(real_pages["page"][later], real_pages["clicked"][later], count[later])
        assert score == pytest.approx(0.5, abs=0.04), name  # and so for the other sign
    # What the sampler itself leaves behind is no key to the pages either (0.65 without matching it).
    shown = real_pages["shown without a click"]
    assert gauc(real_pages["page"][later], real_pages["clicked"][later], shown[later]) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), LogisticRegression()),
        HistGradientBoostingClassifier(max_depth=4, max_iter=60, random_state=0),
    ],
    ids=["logistic regression", "gradient boosting"],
)
def test_a_model_of_past_counts_stays_at_chance_on_real_pages(real_pages, model):
    counts = np.stack(list(real_pages["counts"].values()), axis=1).astype(float)
    later = real_pages["day"] > np.quantile(real_pages["day"], 0.7)
    with threadpool_limits(1):  # spinning threads are slow on a busy machine
        model.fit(counts[~later], real_pages["clicked"][~later])
    score = model.predict_proba(counts[later])[:, 1]
    assert gauc(real_pages["page"][later], real_pages["clicked"][later], score) == pytest.approx(0.5, abs=0.04)
