"""What all sides of `speed.py` read: the same sizes and first weights, and batches of clicks as pages and as rows."""

from pathlib import Path

import numpy as np

# Sizes of the embeddings, the row of padding included.
ITEMS, CATEGORIES, USERS = 100_000, 1_000, 50_000
DIM = 16
ATTENTION_UNITS = 64
MLP_UNITS = (512, 128, 64)
ROWS = 1024
CANDIDATES = 20
BATCHES = 2
CLICK_RATE = 0.1
STEPS = (100, 1000)
LENGTHS = ("full", "realistic")
PAGE_CANDIDATES = 200
PAGE_LENGTHS = {"click": 1000, "pay": 1000, "cart": 200}
NOW = 1_700_000_000_000


def draw_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The weights that every DIN starts from, large enough that none hides behind a zero."""
    shapes = {
        "user": (USERS, DIM),
        "item": (ITEMS, DIM),
        "category": (CATEGORIES, DIM),
        "attention_kernel": (8 * DIM, ATTENTION_UNITS),
        "attention_bias": (ATTENTION_UNITS,),
        "dice_alpha": (ATTENTION_UNITS,),
        "score_kernel": (ATTENTION_UNITS, 1),
        "score_bias": (1,),
        "logit_kernel": (MLP_UNITS[-1], 1),
        "logit_bias": (1,),
    }
    widths = (5 * DIM, *MLP_UNITS)
    for layer, units in enumerate(MLP_UNITS):
        shapes |= {f"mlp_kernel_{layer}": (widths[layer], units), f"mlp_bias_{layer}": (units,)}
    weights = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in ("user", "item", "category"):
        weights[name][0] = 0  # FuxiCTR holds the embedding of padding at zero
    return weights


def draw_pages(steps: int, lengths: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pages of one batch, by the numbers that the peers use: 0 is padding. The last page has what is left over."""
    pages = -(-ROWS // CANDIDATES)
    item = rng.integers(1, ITEMS, (pages, CANDIDATES))
    item.ravel()[ROWS:] = 0
    longest = np.full(pages, steps)
    if lengths == "realistic":
        longest = np.clip(rng.lognormal(np.log(steps / 10), 1.2, pages).astype(int), 1, steps)
    history = rng.integers(1, ITEMS, (pages, steps))
    return {
        "user": rng.integers(1, USERS, pages),
        "item": item,
        "clicked": (rng.random(item.shape) < CLICK_RATE).astype(np.int64),
        "click": np.where(np.arange(steps) < longest[:, None], history, 0),
    }


def to_rows(pages: dict[str, np.ndarray], category: np.ndarray) -> dict[str, np.ndarray]:
    """The candidates of pages as rows with a history each."""
    page, place = np.nonzero(pages["item"])
    item, history = pages["item"][page, place], pages["click"][page]
    ids = {"user": pages["user"][page], "item": item, "category": category[item]}
    ids |= {"hist_item": history, "hist_category": category[history]}
    rows = {name: values.astype(np.int32) for name, values in ids.items()}
    return rows | {"clicked": pages["clicked"][page, place].astype(np.float32)}


def write_inputs(work: Path) -> None:
    """Writes what every side reads: weights, batches of pages and of rows, and one page to score."""
    rng = np.random.default_rng(0)
    np.savez(work / "weights.npz", **draw_weights(rng))
    category = rng.integers(1, CATEGORIES, ITEMS)
    category[0] = 0
    np.save(work / "category.npy", category)
    for steps in STEPS:
        for lengths in LENGTHS:
            batches = [draw_pages(steps, lengths, rng) for _ in range(BATCHES)]
            together = {name: np.concatenate([pages[name] for pages in batches]) for name in batches[0]}
            np.savez(work / f"pages_{steps}_{lengths}.npz", **together)
            rows = to_rows(together, category)
            if len(rows["user"]) != BATCHES * ROWS:
                raise ValueError(f"a batch must have {ROWS} rows. Received: {len(rows['user']) / BATCHES}")
            np.savez(work / f"rows_{steps}_{lengths}.npz", **rows)
        page = {
            "user": rng.integers(1, USERS, 1),
            "item": rng.integers(1, ITEMS, (1, PAGE_CANDIDATES)),
            "clicked": np.zeros((1, PAGE_CANDIDATES), np.int64),
            "click": rng.integers(1, ITEMS, (1, steps)),
        }
        rows = to_rows(page, category)
        del rows["clicked"]
        np.savez(work / f"page_{steps}.npz", **rows)
