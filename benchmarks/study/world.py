"""Shoppers simulated over H&M's photos: logs of any number of pages, for when learning from clicks pays.

**Everything but photos and catalogue is simulated.** A shopper's taste is a weight for each value of four attributes of
the catalogue that no model is told: product type, colour, pattern and section of the shop. Weights are normal, so that
some values draw and others repel; what a photo is like decides nothing. A page has 20 articles, drawn by a popularity
that falls with a random rank; a click is drawn for each by the sum of the weights. Pages come at random moments, those
of a shopper over the whole time.

The last pages test, those before train rankers, and those before these, as many as asked for, are what encoders learn
on. Clicks on all earlier pages are events: histories are the same however many pages there are to learn on.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.format.outputs import whole_directory
from models.metrics.auc import group_auc

TASTE = {"category": 0.8, "cat_colour": 1.0, "cat_graphical_appearance": 1.0, "cat_section": 0.8}
"""The attributes, and the standard deviation of a shopper's weights for their values."""

PAGES_OF_A_SHOPPER = 20
CANDIDATES = 20
CLICK_BIAS = -3.4  # of the log-odds: about two clicks a page
POPULARITY = 0.5  # exponent of the rank
_DRAWN = 2 * CANDIDATES  # of which the first distinct ones are shown
_FIRST_MOMENT = 1_577_836_800_000  # 2020-01-01, epoch milliseconds
_DAYS = 100
_MS_OF_DAY = 86_400_000


class World(NamedTuple):
    """How many pages there are.

    Attributes:
        sizes: that encoders learn on, ascending.
        train_pages: that rankers learn on.
        test_pages: of the end.
        earlier_pages: of which nothing but the clicks is known.
    """

    sizes: tuple[int, ...]
    train_pages: int
    test_pages: int
    earlier_pages: int

    def smaller(self, times: int) -> "World":
        """The same with fewer pages of each kind."""
        pages = (self.train_pages, self.test_pages, self.earlier_pages)
        return World(tuple(size // times for size in self.sizes), *(each // times for each in pages))


def write_logs(world: World, catalogue: Path, output: Path, size: int, seed: int = 0) -> float:
    """Writes the logs of the world with so many pages to learn on.

    Args:
        world: how many pages there are.
        catalogue: logs of H&M, of which items and photos are taken.
        output: directory to write.
        size: pages to learn on, at most the largest of its sizes.
        seed: of the world; the same pages for all sizes.

    Returns:
        The GAUC of the true taste on the test pages: what no ranker can pass.
    """
    items = pq.read_table(catalogue / "items.parquet")
    rng = np.random.default_rng(seed)
    until = world.earlier_pages + max(world.sizes)
    pages = until + world.train_pages + world.test_pages
    shoppers = pages // PAGES_OF_A_SHOPPER
    codes = {name: items[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in TASTE}
    weights = {name: rng.normal(0, scale, (shoppers, codes[name].max() + 1)) for name, scale in TASTE.items()}
    shopper = rng.integers(shoppers, size=pages)
    moment = np.sort(rng.integers(_DAYS * _MS_OF_DAY, size=pages)) + _FIRST_MOMENT
    popularity = (1 + rng.permutation(len(items))) ** -POPULARITY
    candidates = _distinct(rng.choice(len(items), (pages, _DRAWN), p=popularity / popularity.sum()))
    taste = sum(weights[name][shopper[:, None], codes[name][candidates]] for name in TASTE)
    clicked = rng.random(taste.shape) < 1 / (1 + np.exp(-(taste + CLICK_BIAS)))

    first = until - size
    split = np.repeat(["pretrain", "train", "test"], [size, world.train_pages, world.test_pages])
    page = np.repeat(np.arange(first, pages), CANDIDATES)
    item_ids = items["item_id"].combine_chunks()
    impressions = {
        "page_id": _names("p", page),
        "user_id": _names("u", shopper[page]),
        "item_id": item_ids.take(pa.array(candidates[first:].ravel())),
        "timestamp": moment[page],
        "position": np.tile(np.arange(CANDIDATES), pages - first),
        "clicked": clicked[first:].ravel(),
        "split": np.repeat(split, CANDIDATES),
    }
    earlier, column = np.nonzero(clicked[:first])
    events = {
        "user_id": _names("u", shopper[earlier]),
        "item_id": item_ids.take(pa.array(candidates[earlier, column])),
        "timestamp": moment[earlier],
        "event": np.full(len(earlier), "click"),
    }
    known = items.select(["item_id", "category", "title", "image", *(n for n in items.column_names if "label_" in n)])
    # What taste is drawn from is for evaluation alone: the category is that of the whole group of products.
    known = known.set_column(1, "category", items["cat_product_group"]).set_column(
        2, "title", pa.array([""] * len(items))
    )
    with whole_directory(output) as directory:
        pq.write_table(pa.table(impressions), directory / "impressions.parquet")
        pq.write_table(pa.table(events), directory / "events.parquet")
        pq.write_table(known, directory / "items.parquet")
        (directory / "images").symlink_to((catalogue / "images").resolve())
    test = slice(pages - world.test_pages, pages)
    page = np.repeat(np.arange(world.test_pages), CANDIDATES)
    return group_auc(taste[test].ravel(), clicked[test].ravel(), page).mean()


def _distinct(drawn: np.ndarray) -> np.ndarray:
    """The first `CANDIDATES` distinct values of each row."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, axis=1)
    again = np.zeros(drawn.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.take_along_axis(drawn, np.argsort(again, axis=1, kind="stable")[:, :CANDIDATES], axis=1)


def _names(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pa.array(np.char.add(prefix, numbers.astype(str)))
