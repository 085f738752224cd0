"""Maps of embeddings: t-SNE, coloured by a label."""

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

COLOURS = ("#3267c8", "#d9822b", "#5b9e53", "#c0392b", "#8e5bb5", "#8c6a4f", "#e377c2", "#17a2b8", "#b5a42e", "#1d2330")
"""Of the most frequent labels."""
_OTHER = "#d9dce3"
_PERPLEXITY = 30
_LONGEST_NAME = 22  # letters, so that two columns of names fit


def tsne_points(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Lays embeddings out in the plane so that near ones stay near.

    Args:
        embeddings: `(n, dim)` with at least 5 rows and 2 dimensions, compared by Euclidean distance.
        seed: the layout depends on nothing else.

    Returns:
        float32 `(n, 2)`.

    Reference: van der Maaten and Hinton, Visualizing data using t-SNE (2008).
    """
    tsne = TSNE(perplexity=min(_PERPLEXITY, (len(embeddings) - 1) / 3), init="pca", random_state=seed)
    with threadpool_limits(1):  # sums of several threads come in any order, and the layout magnifies differences
        return tsne.fit_transform(np.asarray(embeddings, np.float32))


def tsne_map(points: np.ndarray, values: Sequence[str]) -> bytes:
    """Draws points in the colours of their labels.

    Args:
        points: `(n, 2)`.
        values: label of each, empty without. The most frequent ones get a colour and the others are grey.

    Returns:
        A PNG.
    """
    frequent = [value for value, _ in Counter(value for value in values if value).most_common(len(COLOURS))]
    figure = Figure(figsize=(5.6, 6.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(18_000 / len(points), 9, 60))
    for value, colour in [*zip(frequent, COLOURS, strict=False), ("", _OTHER)]:
        chosen = np.array([v == value if value else v not in frequent for v in values], bool)
        if chosen.any():
            name = value if len(value) <= _LONGEST_NAME else f"{value[:_LONGEST_NAME]}…"
            x, y = points[chosen].T
            label = f"{name or 'others'} ({chosen.sum()})"
            axes.scatter(x, y, s=size, c=colour, alpha=0.85, linewidths=0, zorder=2 if value else 1, label=label)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_color("#dde1e8")
    markers = (80 / size) ** 0.5
    figure.legend(
        loc="outside lower center", ncols=2, fontsize=10, markerscale=markers, frameon=False, handletextpad=0.1
    )
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
