"""Whitening: embeddings with mean 0, variance 1 in every direction, and no correlation."""

import dataclasses
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from models.embeddings.vectors import l2_normalize

_ROUNDING = 1e-10  # differences to the mean, relative to it, that only the arithmetic makes


@dataclasses.dataclass(frozen=True)
class Moments:
    """What the covariance of some vectors is made of. Moments of parts merge into those of the whole.

    The outer products are those of the differences to the mean: of the vectors themselves, they would cancel almost
    entirely when the mean is large.

    Attributes:
        count: number of vectors.
        mean: float64 `(dim,)`.
        scatter: float64 `(dim, dim)`, the sum of the outer products of the vectors' differences to the mean.

    Reference: Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances (1979).
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Moments":
        """Moments of vectors, float `(n, dim)`; `n` may be 0."""
        vectors = np.asarray(vectors, np.float64)
        mean = vectors.sum(axis=0) / max(1, len(vectors))
        differences = vectors - mean
        return cls(len(vectors), mean, differences.T @ differences)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of these vectors and others together."""
        count = self.count + other.count
        share = other.count / max(1, count)
        apart = other.mean - self.mean
        between = self.count * share * np.outer(apart, apart)
        return Moments(count, self.mean + share * apart, self.scatter + other.scatter + between)

    def covariance(self) -> np.ndarray:
        """The unbiased estimate, float64 `(dim, dim)`; needs two vectors."""
        return self.scatter / (self.count - 1)


class Whitening:
    """An affine map that gives embeddings mean 0 and the identity as covariance.

    `y = (x - mean) U diag(1 / sqrt(s))`, with the eigenvectors `U` and eigenvalues `s` of the covariance, the largest
    first. Distances between whitened vectors do not depend on the scale, rotation or shear of the embeddings: a few
    strong directions no longer drown the others.

    Args:
        mean: float64 `(encoder_dim,)`.
        projection: float64 `(encoder_dim, dim)`, `U diag(1 / sqrt(s))`.
        l2: whether whitened vectors are scaled to unit length, so that Euclidean order is cosine order.
        count: number of vectors that it was fitted on.

    Example:
        >>> whitening = Whitening.fit([vectors[:5000], vectors[5000:]], dim=64)
        >>> whitening.transform(vectors).shape
        (10000, 64)

    Reference: Su et al., Whitening Sentence Representations for Better Semantics and Faster Retrieval (2021), which
    keeps the first components and scales to unit length; here both are options, and what is fitted on is the caller's.
    """

    def __init__(self, mean: np.ndarray, projection: np.ndarray, *, l2: bool = False, count: int = 0) -> None:
        if projection.ndim != 2 or mean.shape != projection.shape[:1]:
            raise ValueError(
                "`mean` must have shape `(encoder_dim,)` and `projection` `(encoder_dim, dim)`. "
                f"Received: {mean.shape} and {projection.shape}"
            )
        self.mean = mean
        self.projection = projection
        self.l2 = l2
        self.count = count

    @property
    def dim(self) -> int:
        """Length of whitened vectors."""
        return self.projection.shape[1]

    @classmethod
    def fit(
        cls, blocks: Iterable[np.ndarray], *, dim: int | None = None, l2: bool = False, threshold: float = 1e-7
    ) -> "Whitening":
        """Fits in one pass over the vectors.

        Args:
            blocks: the vectors, float `(n, encoder_dim)` each.
            dim, l2, threshold: see `from_moments`.

        Raises:
            ValueError: a vector is not finite (its row, counted through all blocks, is named), and what `from_moments`
                raises.
        """
        moments = None
        row = 0
        for block in blocks:
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                raise ValueError(f"`blocks` must be finite. Row {row + int(np.argmin(finite))} is not")
            row += len(block)
            moments = Moments.of(block) if moments is None else moments.merge(Moments.of(block))
        if moments is None:
            raise ValueError("`blocks` must hold at least two vectors. Received: none")
        return cls.from_moments(moments, dim=dim, l2=l2, threshold=threshold)

    @classmethod
    def from_moments(
        cls, moments: Moments, *, dim: int | None = None, l2: bool = False, threshold: float = 1e-7
    ) -> "Whitening":
        """Fits to moments, which several workers may have taken.

        Args:
            moments: of the vectors.
            dim: keeps this many components, the ones of largest variance; `None` keeps all that vary.
            l2: whether to scale to unit length afterwards.
            threshold: directions with less than this share of the largest variance do not count as varying: dividing
                by it would blow up nothing but noise. Rounding to float16 alone leaves a share of about 8e-8.

        Raises:
            ValueError: there are fewer than two vectors, they are all equal, or fewer than `dim` directions vary.
        """
        if moments.count < 2:
            raise ValueError(f"`moments` must be of at least two vectors. Received: {moments.count}")
        if dim is not None and dim < 1:
            raise ValueError(f"`dim` must be at least 1. Received: {dim}")
        variances, directions = np.linalg.eigh(moments.covariance())
        variances, directions = variances[::-1], directions[:, ::-1]
        rounding = (_ROUNDING * np.abs(moments.mean).max()) ** 2  # equal vectors do not sum up to a multiple exactly
        varying = int((variances > max(threshold * variances[0], rounding)).sum())
        if not varying:
            raise ValueError(f"`moments` must be of vectors that differ. Received: {moments.count} equal ones")
        if dim is not None and dim > varying:
            raise ValueError(
                f"`dim` must be at most {varying}: so many of the {len(variances)} directions vary over the "
                f"{moments.count} vectors. Received: {dim}"
            )
        kept = dim or varying
        directions = directions[:, :kept]
        # An eigenvector may point either way; equal data shall give equal results.
        largest = np.abs(directions).argmax(axis=0)
        directions = directions * np.sign(directions[largest, np.arange(kept)])
        return cls(moments.mean, directions / np.sqrt(variances[:kept]), l2=l2, count=moments.count)

    def transform(self, vectors: np.ndarray) -> np.ndarray:
        """Whitens vectors: float `(n, encoder_dim)` to float32 `(n, dim)`.

        The arithmetic is float64, for weak directions are small differences of large numbers.

        Raises:
            ValueError: the vectors have another length than those it was fitted on.
        """
        if vectors.shape[1:] != self.mean.shape:
            raise ValueError(f"`vectors` must have shape `(n, {len(self.mean)})`. Received: {vectors.shape}")
        whitened = ((np.asarray(vectors, np.float64) - self.mean) @ self.projection).astype(np.float32)
        return l2_normalize(whitened) if self.l2 else whitened

    def save(self, path: Path) -> None:
        """Writes the map as an `.npz` file; equal maps make equal files."""
        np.savez(path, mean=self.mean, projection=self.projection, l2=self.l2, count=self.count)

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is something else.
        """
        try:
            with np.load(path) as file:
                return cls(file["mean"], file["projection"], l2=bool(file["l2"]), count=int(file["count"]))
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            raise ValueError(f"`path` must be a whitening that was saved. Received: {path} ({error})") from error
