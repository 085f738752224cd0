"""A page dataset with something to learn, small enough for runs of seconds."""

from pathlib import Path

import numpy as np

from models.data.dataset import Dataset
from tests.models.picture_dataset import write_picture_dataset


def write_taste_dataset(root: Path) -> Dataset:
    """Shoppers who click the colour that they clicked before, out of four; brightness means nothing."""
    rng = np.random.default_rng(0)
    hues = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    pictures = [np.broadcast_to(hues[n % 4] * rng.integers(90, 256), (12, 12, 3)).astype(np.uint8) for n in range(60)]
    places = [(0, n) for n in range(60)] + [(-1, -1)]
    pages = []
    for time in range(200):
        taste = rng.integers(4)
        item = rng.permutation(61)[:6]
        clicked = (item % 4 == taste) & (item < 60)
        click_item = 4 * rng.permutation(15)[: rng.integers(1, 6)] + taste
        pages.append(
            {"item": item, "clicked": clicked.astype(int).tolist(), "click_item": click_item, "timestamp": time}
        )
    last = {"item": [0, 1], "clicked": [1, 0], "click_item": [], "timestamp": 250}  # teaches nothing
    titles = [f"{('red', 'green', 'blue', 'yellow')[n % 4]} thing {n}" for n in range(61)]
    return write_picture_dataset(root, [pictures], places, [*pages, last], view=pages, columns={"title": titles})
