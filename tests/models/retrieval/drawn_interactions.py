"""Interactions drawn at random from users who like items of their own kind, and features that show the kinds."""

import numpy as np

from models.retrieval.interactions import Interactions, Pairs

KINDS = 3


def draw_interactions(users: int = 30, items: int = 24, per_user: int = 6, seed: int = 0) -> Interactions:
    """Nine of ten interactions of user u are with an item i where `u % KINDS == i % KINDS`."""
    random = np.random.default_rng(seed)
    pairs = []
    for user in range(users):
        own = np.arange(items) % KINDS == user % KINDS
        chance = np.where(own, 0.9 / own.sum(), 0.1 / (~own).sum())
        pairs += [(user, item) for item in random.choice(items, per_user, replace=False, p=chance)]
    drawn = np.array(pairs, np.int32)
    part = np.tile([0] * (per_user - 2) + [1, 2], users)
    return Interactions.of(
        [f"u{user}" for user in range(users)],
        [f"i{item}" for item in range(items)],
        *(Pairs(*drawn[part == number].T) for number in range(3)),
    )


def draw_features(items: int = 24, dim: int = 5, seed: int = 0) -> np.ndarray:
    """Vectors that are close for items of one kind: float32 `(items, dim)`."""
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(KINDS, dim))
    return (kinds[np.arange(items) % KINDS] + 0.2 * random.normal(size=(items, dim))).astype(np.float32)
