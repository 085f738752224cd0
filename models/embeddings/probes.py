"""Probes: how well frozen embeddings predict labels of items that the probe has not seen."""

from typing import NamedTuple

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.neighbors import KNeighborsClassifier

from models.embeddings.label_consistency import UNLABELLED
from models.embeddings.neighbours import Metric

TEST_SHARE, VALIDATION_SHARE = 0.25, 0.15
_INVERSE_STRENGTHS = (0.003, 0.01, 0.03, 0.1)  # of the regularisation
_MAX_ITERATIONS = 500
_COMPONENTS = 256


class ProbeAccuracy(NamedTuple):
    """Accuracy on test items.

    Attributes:
        top1, top5: share of the test items whose label is the best, among the five best. Labels of the same score
            count against the item, so that a probe that knows nothing gains nothing.
        standard_error: of `top1`, over test items.
        train_items, test_items: how many; the same items for every embedding.
        classes: labels of the train items. A test item with another one counts as wrong.
    """

    top1: float
    top5: float
    standard_error: float
    train_items: int
    test_items: int
    classes: int


class ProbeSplit(NamedTuple):
    """Rows that a probe learns on, that its regularisation is chosen on, and that it is measured on."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def probe_split(labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> ProbeSplit:
    """Splits the items that have a label.

    Args:
        labels: int `(n,)`, -1 = no label.
        groups: int `(n,)`; the items of a group, such as the colours of one product, come to the same part.
        seed: of the split.

    Raises:
        ValueError: fewer than three groups have a label, or the train items have one label only.
    """
    labelled = np.flatnonzero(labels != UNLABELLED)
    if len(np.unique(groups[labelled])) < 3:
        raise ValueError("`labels` must be known of at least three groups of items")
    rest, test = _divide(labelled, groups, TEST_SHARE, seed)
    train, validation = _divide(rest, groups, VALIDATION_SHARE / (1 - TEST_SHARE), seed)
    if len(np.unique(labels[train])) < 2:
        raise ValueError("`labels` must have at least two values among the items that a probe learns on")
    return ProbeSplit(train, validation, test)


def linear_probe(embeddings: np.ndarray, labels: np.ndarray, split: ProbeSplit) -> ProbeAccuracy:
    """Multinomial logistic regression on the whitened components of embeddings.

    Whitening, fitted on the train items, makes the result the same for every invertible affine map of the embeddings
    (of at most 256 dimensions; of more the first 256 components count), and the regression some ten times faster.
    The strength of the L2 regularisation is the best of four on the validation items.

    Args:
        embeddings: `(n, dim)`.
        labels: int `(n,)`.
        split: of `probe_split`.
    """
    components = min(_COMPONENTS, embeddings.shape[1], len(split.train))
    with np.errstate(invalid="ignore"):  # shares of the variance, which equal embeddings do not have
        whitening = PCA(components, whiten=True, svd_solver="full").fit(embeddings[split.train].astype(np.float64))
    train, validation, test = (whitening.transform(embeddings[rows]).astype(np.float32) for rows in split)
    best, chosen = -1.0, None
    for strength in _INVERSE_STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS).fit(train, labels[split.train])
        accuracy = model.score(validation, labels[split.validation])
        if accuracy > best:
            best, chosen = accuracy, model
    return _accuracy(chosen, test, labels, split)


def knn_probe(
    embeddings: np.ndarray, labels: np.ndarray, split: ProbeSplit, k: int = 10, metric: Metric = "euclidean"
) -> ProbeAccuracy:
    """Votes of the `k` nearest train items, weighted by their inverse distance.

    Args:
        embeddings: `(n, dim)`.
        labels: int `(n,)`.
        split: of `probe_split`.
        k: neighbours, or all train items if those are fewer.
        metric: `euclidean` or `cosine`.
    """
    model = KNeighborsClassifier(min(k, len(split.train)), weights="distance", algorithm="brute", metric=metric)
    model.fit(embeddings[split.train], labels[split.train])
    return _accuracy(model, embeddings[split.test], labels, split)


def _divide(rows: np.ndarray, groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Takes a share of the groups away from rows: the rest, and what was taken."""
    splitter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    rest, taken = next(splitter.split(rows, groups=groups[rows]))
    return rows[rest], rows[taken]


def _accuracy(model: ClassifierMixin, test: np.ndarray, labels: np.ndarray, split: ProbeSplit) -> ProbeAccuracy:
    """Measures a classifier on the test items' vectors `(test items, dim)`."""
    scores = model.predict_proba(test)
    wanted = labels[split.test]
    learnt = np.isin(wanted, model.classes_)
    column = np.where(learnt, np.searchsorted(model.classes_, wanted), 0)
    own = np.take_along_axis(scores, column[:, None], axis=1)
    rank = (scores >= own).sum(axis=1)  # ties count against the label
    top1, top5 = (float((learnt & (rank <= k)).mean()) for k in (1, 5))
    error = float(np.sqrt(top1 * (1 - top1) / len(wanted)))
    return ProbeAccuracy(top1, top5, error, len(split.train), len(wanted), len(model.classes_))
