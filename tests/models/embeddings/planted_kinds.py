"""A dataset of items of four kinds, with embeddings that tell kinds apart and embeddings that do not."""

from pathlib import Path

import numpy as np

from tests.browser import MARKUP
from tests.models.picture_dataset import write_picture_dataset
from tests.models.saved_embeddings import save_embeddings

ITEMS, KINDS, WITHOUT_PICTURE = 80, 4, 7
KIND = np.arange(ITEMS) // 2 % KINDS
COLOURS = [(200, 40, 40), (40, 160, 40), (40, 40, 200), (200, 160, 40)]


def write_planted_kinds(root: Path) -> Path:
    """Writes `data`, and `good`, `noise` and `broken` embeddings of it; and `of_others`, embeddings of another dataset.

    Items 2 n and 2 n + 1 are of one kind and share a title, the first two have none. Item 7 has no picture. Item 3 of
    `broken` is not finite.
    """
    rng = np.random.default_rng(0)
    pictures = [np.full((12, 8, 3), COLOURS[kind], np.uint8) for kind in KIND]
    places = [(-1, -1) if row == WITHOUT_PICTURE else (0, row) for row in range(ITEMS)]
    columns = {
        "category": [f"{MARKUP} {kind}" for kind in KIND],
        "title": [None, None, *(f"{MARKUP} {row // 2}" for row in range(2, ITEMS))],
        "label_size": ["", *rng.choice(["small", "large"], ITEMS - 1)],
        "label_void": [None] * ITEMS,
    }
    dataset = write_picture_dataset(root / "data", [pictures], places, columns=columns)
    other = write_picture_dataset(root / "other_data", [pictures[:3]], [(0, 0), (0, 1), (0, 2)])
    good = 10 * rng.normal(size=(KINDS, 6))[KIND] + 0.5 * rng.normal(size=(ITEMS, 6))
    noise = rng.normal(size=(ITEMS, 6))
    broken = np.where(np.arange(ITEMS)[:, None] == 3, np.nan, good)
    for name, vectors, owner in (
        ("good", good, dataset),
        ("noise", noise, dataset),
        ("broken", broken, dataset),
        ("of_others", good[:3], other),
    ):
        has_image = np.arange(len(vectors)) != WITHOUT_PICTURE
        save_embeddings(root / name, vectors.astype(np.float32), has_image, owner)
    return root
