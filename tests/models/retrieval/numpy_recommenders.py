"""What tests of recommenders compute with, in plain NumPy and dense matrices."""

import numpy as np

from models.retrieval.recommender import Recommender
from tests.models.retrieval.drawn_interactions import draw_features, draw_interactions

USERS, ITEMS = 30, 24
BATCH = {"user": np.int32([0, 4, 4]), "item": np.int32([1, 2, 3]), "negative": np.int32([5, 0, 6])}


def make(kind: type[Recommender], kinds: int = 2, **config) -> Recommender:
    """A recommender of small sizes that knows the drawn interactions and features; item 7 has no first feature.

    Its biases are drawn, too.
    """
    features = [draw_features(ITEMS, 5, seed=seed) for seed in range(kinds)]
    if features:
        features[0][7] = 0
    model = kind(USERS, ITEMS, [5] * kinds, {"dim": 4, **config})
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if weight.path.endswith("bias"):
            weight.assign(random.normal(0, 0.3, weight.shape))
    model.adapt(draw_interactions(USERS, ITEMS), features)
    return model


def weights(model: Recommender) -> dict[str, np.ndarray]:
    """By name: `add_table`'s, and `layer/kernel`, `layer/bias`."""
    return {weight.path.removeprefix(f"{model.name}/"): weight.numpy() for weight in model.weights}


def dense(values: dict[str, np.ndarray], layer: str, x: np.ndarray) -> np.ndarray:
    """What a dense layer without activation does."""
    return x @ values[f"{layer}/kernel"] + values.get(f"{layer}/bias", 0)


def adjacency() -> np.ndarray:
    """The graph of users and items, normalised, users first."""
    train = draw_interactions(USERS, ITEMS).train
    matrix = np.zeros((USERS + ITEMS, USERS + ITEMS))
    matrix[train.users, USERS + train.items] = 1
    return normalized(matrix + matrix.T)


def normalized(matrix: np.ndarray) -> np.ndarray:
    """`D^-1/2 A D^-1/2`."""
    degree = matrix.sum(axis=1)
    with np.errstate(divide="ignore"):
        root = np.where(degree > 0, degree**-0.5, 0)
    return root[:, None] * matrix * root


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def light_gcn(start: np.ndarray, layers: int) -> np.ndarray:
    """The mean over layers."""
    passed = [start]
    for _ in range(layers):
        passed.append(adjacency() @ passed[-1])
    return np.mean(passed, axis=0)


def nearest_graph(features: np.ndarray, k: int) -> np.ndarray:
    """Cosines of each item's nearest, negative ones left out, `(items, items)`."""
    cosines = unit(features) @ unit(features).T
    graph = np.zeros_like(cosines)
    for item, row in enumerate(cosines):
        near = np.argsort(-row, kind="stable")[:k]
        graph[item, near] = np.maximum(row[near], 0)
    return graph


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def bpr(users: np.ndarray, items: np.ndarray) -> float:
    """Of `BATCH`."""
    user, item, negative = users[BATCH["user"]], items[BATCH["item"]], items[BATCH["negative"]]
    return float(np.mean(-np.log(sigmoid((user * item).sum(1) - (user * negative).sum(1)))))


def half_squares(*vectors: np.ndarray) -> float:
    """The penalty of `BATCH`."""
    return sum(float((each**2).sum()) for each in vectors) / 2 / 3


def info_nce(queries: np.ndarray, keys: np.ndarray, temperature: float) -> float:
    """By cosine, in the batch."""
    logits = np.exp(unit(queries) @ unit(keys).T / temperature)
    return float(-np.mean(np.log(np.diag(logits) / logits.sum(axis=1))))
