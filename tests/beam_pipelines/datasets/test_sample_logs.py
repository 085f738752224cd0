import io
import json
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_pipelines.datasets.sample_logs import (
    SAMPLE,
    look_at,
    read_labels,
    simulate_taste,
    srgb_to_lab,
    write_sample_logs,
)
from beam_pipelines.format.errors import InputError
from tests.beam_pipelines.gauc import gauc

TABLES = ("impressions", "events", "items", "users")


def read(logs, table):
    """Columns of a table as NumPy arrays."""
    table = pq.read_table(logs / f"{table}.parquet")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The logs that are made without options."""
    logs = tmp_path_factory.mktemp("sample") / "logs"
    write_sample_logs(logs)
    return logs


@pytest.fixture(scope="module")
def test_pages(full):
    """Everything about the candidates of the test split that a simple signal can be made of."""
    items, impressions, events = read(full, "items"), read(full, "impressions"), read(full, "events")
    row = {item: number for number, item in enumerate(items["item_id"])}
    clicks, extra = impressions["clicked"] == 1, events["event"] == "click"
    past = {
        name: np.concatenate([impressions[name][clicks], events[name][extra]])
        for name in ("user_id", "item_id", "timestamp")
    }
    rows = impressions["split"] == "test"
    return {
        "items": items,
        "item": np.array([row[item] for item in impressions["item_id"][rows]]),
        "past_user": past["user_id"],
        "past_item": np.array([row[item] for item in past["item_id"]]),
        "past_time": past["timestamp"],
        **{name: impressions[name][rows] for name in ("page_id", "user_id", "timestamp", "clicked", "query")},
    }


@pytest.fixture(scope="module")
def photos():
    labels = read_labels(SAMPLE)
    with zipfile.ZipFile(SAMPLE / "photos.zip") as shard:
        return {image: (label, shard.read(image)) for image, label in labels}


def test_shipped_photos(photos):
    sizes = [Image.open(io.BytesIO(photo)).size for _, photo in photos.values()]
    assert len(photos) >= 1000
    assert max(map(max, sizes)) <= 96
    assert np.ptp(np.unique([label for label, _ in photos.values()], return_counts=True)[1]) == 0
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) < 6e6


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_srgb_to_lab_agrees_with_published_values(rgb, lab):
    np.testing.assert_allclose(srgb_to_lab(np.array(rgb)), lab, atol=0.05)


def test_look_ignores_the_background_and_orders_texture():
    def photo(garment):
        image = np.full((96, 72, 3), (200, 30, 30), np.uint8)
        image[16:80, 10:62] = garment
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    stripes = np.where(np.arange(64)[:, None, None] // 4 % 2, 40, 120).astype(np.uint8)
    look = look_at([photo(stripes), photo((20, 40, 160))], np.array([0, 1]))
    np.testing.assert_allclose(look.lab[1], srgb_to_lab(np.array((20, 40, 160))), atol=1)
    assert np.abs(look.lab[0, 1:]).max() < 1  # grey, of one of the two lightnesses
    assert look.texture[0] > look.texture[1]


def test_same_seed_same_tables(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_sample_logs(tmp_path / name, photos=100, users=30, pages=60, seed=seed)
    for table in TABLES:
        a, b, c = (pq.read_table(tmp_path / name / f"{table}.parquet") for name in "abc")
        assert a.equals(b)
        assert not a.equals(c)
    shards = [(tmp_path / name / "images" / "photos.zip").read_bytes() for name in "ab"]
    assert shards[0] == shards[1]


def test_logs_meet_the_input_contract(sample_logs):
    impressions, events, items, users = (read(sample_logs, table) for table in TABLES)
    assert json.loads((sample_logs / "logs.json").read_text())["notice"] == "simulated behaviour on real photos"
    assert len(np.unique(impressions["page_id"])) == 900
    assert (len(items["item_id"]), len(users["user_id"])) == (200, 150)
    for table in (impressions, events):
        assert np.isin(table["item_id"], items["item_id"]).all()
        assert np.isin(table["user_id"], users["user_id"]).all()
    assert set(events["event"]) == {"click", "pay", "cart", "cart_remove"}
    with zipfile.ZipFile(sample_logs / "images" / "photos.zip") as shard:
        assert set(items["image"]) == set(shard.namelist())

    page = impressions["page_id"]
    assert len(set(zip(page, impressions["item_id"], strict=True))) == len(page)
    assert len(set(zip(page, impressions["position"], strict=True))) == len(page)
    assert (impressions["clicked"][impressions["converted"] == 1] == 1).all()
    assert ((impressions["dwell_seconds"] > 0) == (impressions["clicked"] == 1)).all()
    published = dict(zip(items["item_id"], items["published_at"], strict=True))
    assert all(published[i] <= t for i, t in zip(impressions["item_id"], impressions["timestamp"], strict=True))


def test_every_payment_follows_a_click_of_the_same_shopper(sample_logs):
    impressions, events = read(sample_logs, "impressions"), read(sample_logs, "events")
    clicked = impressions["clicked"] == 1
    clicks = set(zip(impressions["user_id"][clicked], impressions["item_id"][clicked], strict=True))
    clicks |= set(zip(*(events[name][events["event"] == "click"] for name in ("user_id", "item_id")), strict=True))
    acted = events["event"] != "click"
    assert set(zip(events["user_id"][acted], events["item_id"][acted], strict=True)) <= clicks
    assert (events["event"] == "pay").sum() >= impressions["converted"].sum() > 0


def test_splits_are_consecutive_and_titles_say_nothing(full):
    impressions, items = read(full, "impressions"), read(full, "items")
    pages = {}
    windows = []
    for split in ("pretrain", "train", "test"):
        rows = impressions["split"] == split
        pages[split] = len(np.unique(impressions["page_id"][rows]))
        windows += [impressions["timestamp"][rows].min(), impressions["timestamp"][rows].max()]
    assert (np.diff(windows) > 0).all()
    shares = {split: count / sum(pages.values()) for split, count in pages.items()}
    assert shares == pytest.approx({"pretrain": 0.45, "train": 0.42, "test": 0.13}, abs=0.02)

    train = set(impressions["item_id"][impressions["split"] == "train"])
    unseen = [item not in train for item in impressions["item_id"][impressions["split"] == "test"]]
    assert 0.4 < np.mean(unseen) < 0.6
    assert 0.12 < impressions["clicked"].mean() < 0.25
    adjectives = {title.rsplit(" ", 1)[0].lower() for title in items["title"]}
    assert not adjectives & (set(items["label_colour"]) | set(items["label_texture"]))


def test_popularity_cannot_rank_the_pages(test_pages):
    counts = np.zeros(len(test_pages["item"]))
    for item in np.unique(test_pages["item"]):
        times = np.sort(test_pages["past_time"][test_pages["past_item"] == item])
        rows = test_pages["item"] == item
        counts[rows] = np.searchsorted(times, test_pages["timestamp"][rows])
    assert counts.max() > 20
    assert gauc(test_pages["page_id"], test_pages["clicked"], counts) == pytest.approx(0.5, abs=0.05)


def test_pictures_of_the_history_can_rank_the_pages(test_pages, photos):
    pictures = [photos[image][1] for image in test_pages["items"]["image"]]
    centres = [np.asarray(Image.open(io.BytesIO(p)).resize((64, 64)))[16:48, 18:46].mean((0, 1)) for p in pictures]
    colour = srgb_to_lab(np.stack(centres))
    similarity = np.zeros(len(test_pages["item"]))
    for user in np.unique(test_pages["user_id"]):
        rows, clicks = np.flatnonzero(test_pages["user_id"] == user), test_pages["past_user"] == user
        distance = np.linalg.norm(
            colour[test_pages["item"][rows], None] - colour[test_pages["past_item"][clicks]], axis=-1
        )
        before = test_pages["past_time"][clicks] < test_pages["timestamp"][rows, None]
        similarity[rows] = (np.exp(-0.5 * (distance / 12) ** 2) * before).sum(axis=1)
    assert gauc(test_pages["page_id"], test_pages["clicked"], similarity) > 0.62


def test_an_oracle_that_knows_taste_ranks_the_pages_well(test_pages, photos):
    labels = np.array([label for label, _ in photos.values()])
    look = look_at([photo for _, photo in photos.values()], np.unique(labels, return_inverse=True)[1])
    taste, _ = simulate_taste(look, 1500, np.random.default_rng(0))  # what `simulate` draws first
    row = {image: number for number, image in enumerate(photos)}
    item = np.array([row[image] for image in test_pages["items"]["image"]])[test_pages["item"]]
    user = np.array([int(user[1:]) for user in test_pages["user_id"]])
    assert 0.78 < gauc(test_pages["page_id"], test_pages["clicked"], taste[user, item]) < 0.87


@pytest.mark.parametrize(
    ("argument", "value"), [("photos", 5), ("photos", 9999), ("users", 0), ("pages", 1), ("seed", -1)]
)
def test_wrong_sizes_are_refused_before_any_work(tmp_path, argument, value):
    with pytest.raises(InputError, match=f"`{argument}` must .*Received: {value}"):
        write_sample_logs(tmp_path / "logs", **{argument: value})
    assert not list(tmp_path.iterdir())
