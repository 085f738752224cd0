"""Simulated shoppers on real photos: the logs on which the project can be tried without any data of one's own.

The photos in `sample_photos/` are real. The shoppers are not: each one has a taste that is computed from pixels (one
or two regions of colour, a level of texture, favourite kinds of garment), and clicks within a page follow that taste.
What an item looks like is therefore the one thing worth learning about it, and no table says it: titles are generic,
prices and ages carry nothing, and every item is liked equally often over all shoppers, so that popularity cannot rank
a page.
"""

import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from beam_pipelines.datasets.log_writer import LogSummary, write_logs
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory

NOTICE = "simulated behaviour on real photos"
SAMPLE = Path(__file__).resolve().with_name("sample_photos")

_DAY = 86_400_000  # milliseconds
_START = 1_709_251_200_000  # 2024-03-01 UTC, the first logged page
_WARM_UP_DAYS, _DAYS = 7, 28  # of the warm-up only clicks, carts and payments are logged
_SPLITS = {"pretrain": 0.45, "train": 0.42, "test": 0.13}  # share of the logged time
_MIN_CANDIDATES, _MAX_CANDIDATES = 8, 12
_FEED_SHARE = 0.25  # pages without a query
_QUERY_MATCH = 40.0  # how much likelier a garment of the queried kind is shown
_FRESH_DAYS, _FRESH_BOOST = 4.0, 3.0  # new arrivals are shown more

_COLOUR, _TEXTURE, _GARMENT = 1.0, 0.5, 0.25  # parts of taste
# The logit of a click. Taste has deviation 1.
CLICK_SCALE, CLICK_BIAS = 1.65, -1.95
_OFF_QUERY, _POSITION, _NOISE = -0.6, -0.05, 0.3

_COLOURS = {  # anchors in CIE Lab
    "black": (12, 0, 0),
    "grey": (50, 0, 0),
    "white": (88, 0, 2),
    "beige": (70, 4, 16),
    "brown": (34, 12, 18),
    "red": (42, 52, 28),
    "pink": (65, 30, 2),
    "orange": (60, 38, 48),
    "yellow": (78, 6, 58),
    "green": (45, -24, 18),
    "blue": (42, 0, -28),
    "navy": (18, 4, -16),
    "purple": (34, 28, -28),
}
_TITLE_WORDS = ("Everyday", "Weekend", "City", "Studio", "Holiday", "Favourite", "Easy", "Signature", "Club", "Travel")


class Look(NamedTuple):
    """What the simulation sees on `n` photos.

    Attributes:
        lab: dominant colour of the garment in CIE Lab, `(n, 3)`.
        texture: share of the photos that are smoother, `(n,)` in [0, 1].
        garment: kind of garment as a number, `(n,)`.
    """

    lab: np.ndarray
    texture: np.ndarray
    garment: np.ndarray


class Pages(NamedTuple):
    """Candidates of all pages, one row each, in page order: arrays of the same length."""

    page: np.ndarray
    item: np.ndarray
    position: np.ndarray
    clicked: np.ndarray
    carted: np.ndarray
    removed: np.ndarray
    paid: np.ndarray
    dwell: np.ndarray


def read_labels(sample: Path) -> list[tuple[str, str]]:
    """Photo path and garment label of every shipped photo; any beginning of the list is balanced over the labels."""
    path = sample / "labels.csv"
    if not path.is_file() or not (sample / "photos.zip").is_file():
        raise ArtifactError(f"no photos in {sample}; install the package again, which ships them")
    with open(path, newline="") as file:
        return [(row["image"], row["label"]) for row in csv.DictReader(file)]


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab (D65) of sRGB bytes.

    Args:
        rgb: `(..., 3)` in [0, 255].

    Returns:
        `(..., 3)` float32: lightness in [0, 100] and the two opponent colours.
    """
    rgb = np.asarray(rgb, np.float32) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ to_xyz.T.astype(np.float32) / np.array([0.95047, 1.0, 1.08883], np.float32)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def look_at(photos: Sequence[bytes], garment: np.ndarray) -> Look:
    """Measures colour and texture in the centre of each photo, where the garment is.

    The dominant colour is the mode that mean shift reaches from the median pixel: a print or a strip of background
    does not move it. Texture is the mean step of lightness between neighbouring pixels, as a rank.
    """
    crops = np.stack([_centre(photo) for photo in photos])
    lab = srgb_to_lab(crops)
    steps = [np.abs(np.diff(lab[..., 0], axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    roughness = steps[0] + steps[1]
    pixels = lab.reshape(len(photos), -1, 3)
    colour = np.median(pixels, axis=1)
    for _ in range(4):
        near = np.linalg.norm(pixels - colour[:, None], axis=-1) < 20
        near |= ~near.any(axis=1, keepdims=True)
        colour = (pixels * near[..., None]).sum(axis=1) / near.sum(axis=1)[:, None]
    rank = np.argsort(np.argsort(roughness, kind="stable"), kind="stable")
    return Look(colour.astype(np.float64), (rank + 0.5) / len(photos), garment)


def _centre(photo: bytes) -> np.ndarray:
    image = ImageOps.fit(Image.open(io.BytesIO(photo)).convert("RGB"), (64, 64), Image.Resampling.BILINEAR)
    return np.asarray(image)[16:48, 18:46]


def simulate_taste(look: Look, users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws shoppers and says how well they like each item.

    Returns:
        `taste`, `(users, items)`: over the shoppers, every item has mean 0 and deviation 1, so that none is popular.
        `garments`, `(users, kinds)`: the share of each kind of garment in what a shopper looks for.
    """
    # Lightness varies far more than hue over clothes; without the weights taste would be all light and dark.
    colour = look.lab * np.array([0.5, 1.0, 1.0])
    regions = colour[rng.integers(len(colour), size=(users, 2))]
    regions[:, 1] = np.where(rng.random((users, 1)) < 0.6, regions[:, 0], regions[:, 1])
    distance = np.linalg.norm(colour - regions[:, :, None], axis=-1)  # (users, 2, items)
    level = rng.random((users, 1))
    garments = rng.dirichlet(np.full(look.garment.max() + 1, 0.4), size=users)
    taste = (
        _COLOUR * _by_rank(-distance.min(axis=1))
        + _TEXTURE * _by_rank(-np.abs(look.texture - level))
        + _GARMENT * _by_rank(garments)[:, look.garment]
    )
    return (taste - taste.mean(axis=0)) / taste.std(axis=0), garments


def _by_rank(liking: np.ndarray) -> np.ndarray:
    """Spreads each row evenly over [-1, 1] by liking, so that who likes rare colours is as choosy as everyone else."""
    order = np.argsort(liking, axis=1, kind="stable")
    rank = np.empty(liking.shape)
    np.put_along_axis(rank, order, np.arange(liking.shape[1])[None], axis=1)
    return 2 * rank / (liking.shape[1] - 1) - 1


def show_pages(
    look: Look,
    published: np.ndarray,
    time: np.ndarray,
    user: np.ndarray,
    query: np.ndarray,
    taste: np.ndarray,
    rng: np.random.Generator,
) -> Pages:
    """Fills pages with published items and lets the shoppers act.

    Args:
        look: the items.
        published: epoch milliseconds per item.
        time, user, query: one value per page, sorted by time; query -1 is none.
        taste: `(users, items)`.
        rng: the source of chance.
    """
    # Weighted sampling without replacement for all pages at once: the largest log-weight + Gumbel noise win.
    shown = []
    for start in range(0, len(time), 1024):
        rows = slice(start, start + 1024)
        age = time[rows, None] - published[None]
        weight = np.where(age < _FRESH_DAYS * _DAY, _FRESH_BOOST, 1.0)
        weight *= np.where(look.garment[None] == query[rows, None], _QUERY_MATCH, 1.0)
        key = np.where(age >= 0, np.log(weight) + rng.gumbel(size=age.shape), -np.inf)
        shown.append(np.argpartition(-key, _MAX_CANDIDATES - 1, axis=1)[:, :_MAX_CANDIDATES])
    item = rng.permuted(np.concatenate(shown), axis=1)  # positions carry nothing about the items
    length = rng.integers(_MIN_CANDIDATES, _MAX_CANDIDATES + 1, size=len(time))
    page, position = np.nonzero(np.arange(_MAX_CANDIDATES) < length[:, None])
    item = item[page, position]

    liking = taste[user[page], item]
    off_query = (query[page] >= 0) & (look.garment[item] != query[page])
    logit = (
        CLICK_SCALE * liking
        + _OFF_QUERY * off_query
        + _POSITION * position
        + CLICK_BIAS
        + rng.normal(0, _NOISE, len(page))
    )
    clicked = rng.random(len(page)) < 1 / (1 + np.exp(-logit))
    carted = clicked & (rng.random(len(page)) < 1 / (1 + np.exp(0.6 - 0.5 * liking)))
    paid = carted & (rng.random(len(page)) < 0.45)
    removed = carted & ~paid & (rng.random(len(page)) < 0.4)
    dwell = np.where(clicked, np.exp(rng.normal(2.7 + 0.25 * liking, 0.5)).round(1), 0.0)
    return Pages(page, item, position, clicked, carted, removed, paid, dwell)


def simulate(
    photos: Sequence[bytes],
    labels: Sequence[str],
    images: Sequence[str],
    users: int,
    pages: int,
    seed: int,
    published: np.ndarray | None = None,
) -> dict[str, pa.Table]:
    """Simulates the tables of a log directory: the same ones for the same arguments.

    Args:
        photos: encoded pictures, one per item.
        labels: garment per photo.
        images: path of each photo inside `images/`.
        users: number of shoppers.
        pages: number of logged pages.
        seed: of every random choice.
        published: epoch milliseconds at which each item arrives; `None` as the sample has it.

    Returns:
        `impressions`, `events`, `items` and `users`.
    """
    rng = np.random.default_rng(seed)
    garments, garment = np.unique(np.asarray(labels), return_inverse=True)
    look = look_at(photos, garment)
    taste, wanted = simulate_taste(look, users, rng)

    bounds = _START + np.round(np.cumsum([0, *_SPLITS.values()]) * _DAYS * _DAY).astype(np.int64)
    train_end, end = bounds[-2], bounds[-1]
    if published is None:
        published = _publication(garment, train_end, end, rng)

    warm_up = round(pages * _WARM_UP_DAYS / _DAYS)
    time = np.concatenate(
        [
            np.sort(rng.integers(_START - _WARM_UP_DAYS * _DAY, _START, size=warm_up)),
            np.sort(rng.integers(_START, end, size=pages)),
        ]
    )
    activity = rng.gamma(2.0, size=users)
    user = rng.choice(users, size=len(time), p=activity / activity.sum())
    drawn = (wanted[user].cumsum(axis=1) < rng.random((len(time), 1))).sum(axis=1).clip(max=len(garments) - 1)
    query = np.where(rng.random(len(time)) < _FEED_SHARE, -1, drawn)
    shown = show_pages(look, published, time, user, query, taste, rng)

    item_id = np.array([f"{row:06d}" for row in rng.permutation(len(photos))])  # IDs say nothing about the garment
    user_id = np.array([f"u{row:05d}" for row in range(users)])
    logged = shown.page >= warm_up
    page = shown.page[logged]
    split = np.array(list(_SPLITS))[np.searchsorted(bounds, time[page], side="right") - 1]
    query_text = np.append(garments, "")  # -1 picks the last
    impressions = pa.table(
        {
            "page_id": np.char.add("p", np.char.zfill((page - warm_up).astype(str), 6)),
            "user_id": user_id[user[page]],
            "item_id": item_id[shown.item[logged]],
            "timestamp": time[page],
            "position": shown.position[logged],
            "clicked": shown.clicked[logged].astype(np.int64),
            "converted": shown.paid[logged].astype(np.int64),
            "dwell_seconds": shown.dwell[logged],
            "query": query_text[query[page]],
            "split": split,
        }
    )
    return {
        "impressions": impressions,
        "events": _events(shown, time, user, logged, user_id, item_id, rng),
        "items": _items(look, garments, published, images, item_id, rng),
        "users": pa.table(
            {
                "user_id": user_id,
                "stat_age": rng.integers(18, 70, size=users),
                "stat_days_registered": rng.integers(30, 2000, size=users),
                "cat_region": rng.choice(["north", "east", "south", "west"], size=users),
                "cat_device": rng.choice(["app", "web"], size=users, p=[0.7, 0.3]),
            }
        ),
    }


def _publication(garment: np.ndarray, train_end: int, end: int, rng: np.random.Generator) -> np.ndarray:
    """Half of each kind of garment is old, a fifth arrives before `train_end`, the rest early in the test window."""
    published = np.empty(len(garment), np.int64)
    first = _START - _WARM_UP_DAYS * _DAY
    for kind in range(garment.max() + 1):
        rows = rng.permutation(np.flatnonzero(garment == kind))
        old, arriving, unseen = np.split(rows, [round(0.5 * len(rows)), round(0.7 * len(rows))])
        published[old] = rng.integers(first - 365 * _DAY, first - round(_FRESH_DAYS * _DAY), size=len(old))
        published[arriving] = rng.integers(first, train_end, size=len(arriving))
        published[unseen] = rng.integers(train_end, train_end + (end - train_end) // 8, size=len(unseen))
    return published


def _events(
    shown: Pages,
    time: np.ndarray,
    user: np.ndarray,
    logged: np.ndarray,
    user_id: np.ndarray,
    item_id: np.ndarray,
    rng: np.random.Generator,
) -> pa.Table:
    """Carts and payments after clicks, and the clicks of the warm-up. Other clicks are in the impressions."""
    parts = []
    for event, happened, first, last in (
        ("click", shown.clicked & ~logged, 0, 1),
        ("cart", shown.carted, 30_000, 120_000),
        ("pay", shown.paid, 180_000, 1_800_000),
        ("cart_remove", shown.removed, 180_000, 1_800_000),
    ):
        rows = np.flatnonzero(happened)
        parts.append((np.full(len(rows), event), rows, time[shown.page[rows]] + rng.integers(first, last, len(rows))))
    event, rows, timestamp = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(timestamp, kind="stable")
    rows = rows[order]
    return pa.table(
        {
            "user_id": user_id[user[shown.page[rows]]],
            "item_id": item_id[shown.item[rows]],
            "timestamp": timestamp[order],
            "event": event[order],
        }
    )


def _items(
    look: Look,
    garments: np.ndarray,
    published: np.ndarray,
    images: Sequence[str],
    item_id: np.ndarray,
    rng: np.random.Generator,
) -> pa.Table:
    items = len(item_id)
    anchors = np.array(list(_COLOURS.values()), np.float64)
    nearest = np.linalg.norm(look.lab[:, None] - anchors, axis=-1).argmin(axis=1)
    usual_price = rng.uniform(10, 60, size=len(garments))
    kind = garments[look.garment]
    table = pa.table(
        {
            "item_id": item_id,
            "category": kind,
            "title": np.char.add(np.char.add(rng.choice(_TITLE_WORDS, size=items), " "), kind),
            "image": np.array(images),
            "published_at": published,
            "stat_price": (usual_price[look.garment] * rng.lognormal(0, 0.3, size=items)).round(2),
            "stat_sizes_in_stock": rng.integers(1, 9, size=items),
            "label_garment": kind,
            "label_colour": np.array(list(_COLOURS))[nearest],
            "label_texture": np.array(["smooth", "medium", "rough"])[(look.texture * 3).astype(int)],
        }
    )
    return table.sort_by("item_id")


def write_sample_logs(
    output: Location | str,
    *,
    photos: int = 1200,
    users: int = 1500,
    pages: int = 16000,
    seed: int = 0,
    overwrite: bool = False,
) -> LogSummary:
    """Writes a log directory of simulated shoppers.

    Args:
        output: log directory to make.
        photos: photos used, each one an item.
        users: shoppers.
        pages: logged pages.
        seed: of the simulation.
        overwrite: whether an existing output is replaced.

    Raises:
        InputError: a number is out of range.
    """
    labels = read_labels(SAMPLE)
    if not 100 <= photos <= len(labels):
        raise InputError(f"`photos` must be in [100, {len(labels)}]. Received: {photos}")
    for name, number in (("users", users), ("pages", pages)):
        if number < 20:
            raise InputError(f"`{name}` must be at least 20. Received: {number}")
    if seed < 0:
        raise InputError(f"`seed` must not be negative. Received: {seed}")

    images, garments = zip(*labels[:photos], strict=True)
    with whole_directory(as_location(output), overwrite=overwrite) as directory:
        with zipfile.ZipFile(SAMPLE / "photos.zip") as source:
            encoded = [source.read(image) for image in images]
        tables = simulate(encoded, garments, images, users, pages, seed)
        write_logs(directory, tables, NOTICE)
        (directory / "images").mkdir()
        with zipfile.ZipFile(directory / "images" / "photos.zip", "w", zipfile.ZIP_STORED) as shard:
            for image, photo in zip(images, encoded, strict=True):
                shard.writestr(zipfile.ZipInfo(image), photo)
    impressions = tables["impressions"]
    return LogSummary(
        pages=pages,
        impressions=len(impressions),
        clicks=int(np.sum(impressions["clicked"].to_numpy())),
        events=len(tables["events"]),
        users=users,
        items=photos,
        counters={},
    )
