"""Image search by embeddings: queries, a gallery with distractors, and Identity Recall."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from models.embeddings.identity_recall import RANKS
from models.embeddings.vectors import l2_normalize

_ELEMENTS_TOGETHER = 1 << 24
_DECIMALS = 6  # of cosines that are the same: what float32 leaves of those of equal pictures


class SearchSplit(NamedTuple):
    """Pictures of products that are held out: what is searched with, and what is searched through.

    Attributes:
        train: rows of the pictures that are learned on, those of products with two pictures or more.
        query: rows, one picture of each held-out product that has another.
        gallery: rows: the other pictures of these products, and distractors, pictures of held-out products that have
            but one.
    """

    train: np.ndarray
    query: np.ndarray
    gallery: np.ndarray


def search_split(products: np.ndarray, held_out: float, seed: int) -> SearchSplit:
    """Holds products out, with all of their pictures.

    Args:
        products: int `(pictures,)`.
        held_out: the share of products.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    names, product, size = np.unique(products, return_inverse=True, return_counts=True)
    is_held_out = np.zeros(len(names), bool)
    is_held_out[random.permutation(len(names))[: round(held_out * len(names))]] = True
    order = random.permutation(len(products))
    _, first = np.unique(product[order], return_index=True)
    is_first = np.zeros(len(products), bool)
    is_first[order[first]] = True
    out, several = is_held_out[product], size[product] > 1
    return SearchSplit(
        np.flatnonzero(~out & several),
        np.flatnonzero(out & several & is_first),
        np.flatnonzero(out & ~(several & is_first)),
    )


def identity_recalls(
    query: np.ndarray,
    query_products: np.ndarray,
    gallery: np.ndarray,
    gallery_products: np.ndarray,
    at: Sequence[int] = RANKS,
) -> np.ndarray:
    """Whether a picture of the query's product is among the K of the gallery with the largest cosine, for each query.

    Pictures of the same cosine are in no order: where they stand at the border of the K, what counts is the share of
    their orders in which a picture of the product is among the K. So a network that gives all pictures one embedding
    gains what chance gives, and no order of the files helps.

    Args:
        query: float `(queries, dim)`.
        query_products: int `(queries,)`.
        gallery: float `(pictures, dim)`.
        gallery_products: int `(pictures,)`.
        at: the K.

    Returns:
        float64 `(queries, len(at))`, from 0 to 1: the mean over queries is Identity Recall@K.

    Raises:
        ValueError: an embedding is not finite, or a query's product is not in the gallery.

    Reference: the companion article, "Identity Recall@N".
    """
    if not (np.isfinite(query).all() and np.isfinite(gallery).all()):
        raise ValueError("`query` and `gallery` must be finite")
    missing = ~np.isin(query_products, gallery_products)
    if missing.any():
        raise ValueError(f"`gallery_products` must have the product of every query. {missing.sum()} are missing")
    found = np.zeros((len(query), len(at)))
    query, gallery = (l2_normalize(np.asarray(each, np.float64)) for each in (query, gallery))
    rows = max(1, _ELEMENTS_TOGETHER // max(1, len(gallery)))
    for first in range(0, len(query), rows):
        block = slice(first, first + rows)
        cosines = np.round(query[block] @ gallery.T, _DECIMALS)
        same = query_products[block, None] == gallery_products[None, :]
        best = np.where(same, cosines, -np.inf).max(axis=1, keepdims=True)
        ahead = (cosines > best).sum(axis=1)
        tied = cosines == best
        others, own = (tied & ~same).sum(axis=1), (tied & same).sum(axis=1)
        for n, k in enumerate(at):
            found[block, n] = _chance(np.clip(k - ahead, 0, None), own, others)
    return found


def _chance(places: np.ndarray, own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The chance that one of `own` is at the first `places` of `own + others` in random order."""
    places = np.minimum(places, own + others)
    # No own one among them: C(others, places) / C(own + others, places).
    impossible = places > others
    rest = np.maximum(others - places, 0)
    log_none = gammaln(others + 1) - gammaln(rest + 1) - gammaln(own + others + 1) + gammaln(own + others - places + 1)
    return np.where(impossible, 1.0, 1.0 - np.exp(np.minimum(log_none, 0.0)))
