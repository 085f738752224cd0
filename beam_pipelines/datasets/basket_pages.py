"""Pages around real baskets, for sources that have purchases but no impressions."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from beam_pipelines.shell.progress import progress_bar

ON_SALE_DAYS = 60
RECENT_DAYS = 28

# Lower edges of what counts as alike. The first one is binding, the others order the articles within a group.
_RECENT_EDGES = (1, 2, 3, 4, 6, 9, 14)
_LAST_BOUGHT_EDGES = (8, 15, 29, 61, 121, 241, 10**5)
_BOUGHT_EDGES = (1, 2, 3, 5, 9, 17, 33)
_FIRST_SHOWN_EDGES = (0, 8, 15, 22, 31, 38, 45, 52, 61, 121)
# How far from its clicked article a sampled one may be in that order: one attempt after the other.
_DISTANCES_SAME_TYPE = (3, 4, 5, 6, 8)
_DISTANCES = (8, 10, 12, 16, 32, 64, 128)


class Purchases(NamedTuple):
    """Distinct purchases sorted by day and customer: arrays of the same length, all integers."""

    day: np.ndarray
    customer: np.ndarray
    article: np.ndarray


class Candidates(NamedTuple):
    """The candidates of pages, sorted by page and position: arrays of the same length, all integers."""

    page: np.ndarray
    day: np.ndarray
    customer: np.ndarray
    article: np.ndarray
    position: np.ndarray
    clicked: np.ndarray


class BasketPages:
    """Builds a page per customer and day: the basket, clicked, filled up with sampled articles.

    How articles are sampled decides what the pages measure: whatever tells them from bought ones without looking at
    either is a leak. A sampled article is on sale (bought by anyone within 60 days either side), is not in the basket,
    and is matched to one of the clicked articles: same number of purchases in the 28 days before (in bins), same
    answer to "ever bought before", and a near neighbour in the order by time of the last purchase, number of
    purchases, time since it was first shown, and times shown without a click. Half of the sampled articles have the
    product type of their clicked article as well, where there is such a neighbour.

    The last two matter as much as purchases: an article is on sale 60 days before its first purchase, so one that was
    often shown and never bought would be one that is about to be.

    Only what happened before the page's day is compared. Where nothing matches, the page stays shorter.

    Args:
        product_type: number of the product type, one per article.
        page_size: candidates per page. Of a basket larger than half of it, a random half page is clicked.
        rng: the source of chance.

    Attributes:
        counters: what happened to how many baskets, articles and slots.
    """

    def __init__(self, product_type: np.ndarray, page_size: int, rng: np.random.Generator) -> None:
        articles = len(product_type)
        self.counters: dict[str, int] = {}
        self._product_type = product_type
        self._page_size = page_size
        self._rng = rng
        self._nearby = np.zeros(articles, np.int64)  # purchases within ON_SALE_DAYS either side
        self._recent = np.zeros(articles, np.int64)  # purchases in the RECENT_DAYS before
        self._bought = np.zeros(articles, np.int64)
        self._last_bought = np.full(articles, -(10**6))
        self._shown = np.zeros(articles, np.int64)  # without a click
        self._first_shown = np.full(articles, 10**6)

    def build(self, purchases: Purchases) -> Iterator[Candidates]:
        """Builds the pages of all baskets.

        Yields:
            The candidates of a day's pages, day after day.
        """
        parts = list(self._days(purchases))
        built = 0
        for day, customers, page, article, clicked in parts:
            order = np.lexsort((self._rng.random(len(page)), page))  # positions carry nothing
            page = page[order].astype(np.int64)
            position = np.arange(len(page)) - np.searchsorted(page, page)
            yield Candidates(
                page + built,
                np.full(len(page), day),
                customers[page],
                article[order].astype(np.int64),
                position,
                clicked[order].astype(np.int64),
            )
            built += len(customers)

    def _days(self, purchases: Purchases) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Fills the baskets of each day: day, customer of each page, and page, article and click of each candidate.

        All days are sampled before any is shuffled, so the integers are small.
        """
        first, last = int(purchases.day[0]), int(purchases.day[-1])
        bounds = np.searchsorted(purchases.day, np.arange(first, last + 2))

        def bought_on(day: int) -> np.ndarray:
            inside = first <= day <= last
            return purchases.article[slice(*bounds[day - first : day - first + 2])] if inside else purchases.article[:0]

        for day in range(first, first + ON_SALE_DAYS):
            np.add.at(self._nearby, bought_on(day), 1)
        for day in progress_bar(range(first, last + 1), desc="pages", unit=" days"):
            np.add.at(self._nearby, bought_on(day + ON_SALE_DAYS), 1)
            np.add.at(self._nearby, bought_on(day - ON_SALE_DAYS - 1), -1)
            np.add.at(self._recent, bought_on(day - 1), 1)
            np.add.at(self._recent, bought_on(day - RECENT_DAYS - 1), -1)
            np.add.at(self._bought, bought_on(day - 1), 1)
            self._last_bought[bought_on(day - 1)] = day - 1

            bought = bought_on(day)
            if not len(bought):
                continue
            customers, basket = np.unique(purchases.customer[bounds[day - first] :][: len(bought)], return_inverse=True)
            page, article, clicked = self._fill(day, basket, bought)
            np.add.at(self._shown, article[~clicked], 1)
            self._first_shown[article[~clicked]] = np.minimum(self._first_shown[article[~clicked]], day)
            yield day, customers, page.astype(np.int32), article.astype(np.int32), clicked

    def _fill(self, day: int, basket: np.ndarray, bought: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fills up the baskets of a day: `basket` numbers them 0, 1, ... in order, `bought` has their articles.

        Returns:
            Page (the basket's number), article and whether it was clicked, one value per candidate.
        """
        shuffled = np.lexsort((self._rng.random(len(basket)), basket))
        kept = np.arange(len(basket)) - np.searchsorted(basket, basket) < max(1, self._page_size // 2)
        page, clicked = basket[kept], bought[shuffled][kept]
        size = np.bincount(page)

        # The slots of a page take turns to be matched to its clicked articles, and to need the same type.
        slot_page = np.repeat(np.arange(len(size)), self._page_size - size)
        slot = np.arange(len(slot_page)) - np.searchsorted(slot_page, slot_page)
        match = clicked[np.searchsorted(page, slot_page) + slot % size[slot_page]]
        sampled = self._sample(day, slot_page, match, slot % 2 == 0, basket, bought)
        filled = sampled >= 0

        self._count("baskets larger than half a page, cut", (np.bincount(basket) > size).sum())
        self._count("bought articles cut from their page", (~kept).sum())
        self._count("slots left empty, nothing matched", (~filled).sum())
        self._count("pages without a sampled article", (~np.isin(np.arange(len(size)), slot_page[filled])).sum())
        page = np.concatenate([page, slot_page[filled]])
        article = np.concatenate([clicked, sampled[filled]])
        return page, article, np.arange(len(page)) < len(clicked)

    def _sample(
        self,
        day: int,
        slot_page: np.ndarray,
        match: np.ndarray,
        same_type: np.ndarray,
        basket: np.ndarray,
        bought: np.ndarray,
    ) -> np.ndarray:
        """Draws an article per slot, -1 where nothing matches: none twice on a page, none of the page's basket.

        Args:
            day: the pages' day.
            slot_page: the page, per slot.
            match: the clicked article to match, per slot.
            same_type: whether its product type is asked for, per slot.
            basket, bought: page and article of everything that was bought.
        """
        articles = len(self._product_type)
        on_sale = np.flatnonzero(self._nearby)
        alike = self._bin(_RECENT_EDGES, self._recent) * 2 + (self._bought > 0)
        likeness = (  # the least important first
            self._rng.random(articles),
            self._shown,
            self._bin(_FIRST_SHOWN_EDGES, day - self._first_shown),
            self._bin(_BOUGHT_EDGES, self._bought),
            self._bin(_LAST_BOUGHT_EDGES, day - self._last_bought),
        )
        taken = basket * articles + bought  # page and article as one number
        sampled = np.full(len(match), -1)
        place = np.empty(articles, np.int64)
        for what, group, concerned, distances in (
            (
                "same product type",
                alike * (self._product_type.max() + 1) + self._product_type,
                same_type,
                _DISTANCES_SAME_TYPE,
            ),
            ("any product type", alike, np.full(len(match), True), _DISTANCES),
        ):
            row = on_sale[np.lexsort([key[on_sale] for key in (*likeness, group)])]
            place[row] = np.arange(len(row))
            start = np.searchsorted(group[row], group[match], side="left")
            stop = np.searchsorted(group[row], group[match], side="right")
            for distance in distances:
                slots = np.flatnonzero(concerned & (sampled < 0))
                low = np.maximum(start[slots], place[match[slots]] - distance)
                high = np.minimum(stop[slots], place[match[slots]] + distance + 1)
                drawn = row[self._rng.integers(low, high)]  # the clicked article itself is always within
                candidate, first = np.unique(slot_page[slots] * articles + drawn, return_index=True)
                first = first[~np.isin(candidate, taken)]
                sampled[slots[first]] = drawn[first]
                taken = np.concatenate([taken, slot_page[slots[first]] * articles + drawn[first]])
                self._count(f"sampled articles matched in popularity, {what}", len(first))
        return sampled

    @staticmethod
    def _bin(edges: tuple[int, ...], values: np.ndarray) -> np.ndarray:
        return np.searchsorted(edges, values, side="right")

    def _count(self, what: str, number: int) -> None:
        self.counters[what] = self.counters.get(what, 0) + int(number)
