"""Turns the image embeddings of all items of a dataset into cluster IDs."""

import math
from typing import get_args

from beam_pipelines.format.errors import ArtifactError, InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.format.text_file import finite
from beam_pipelines.shell.progress import progress_bar, say
from models.clustering.assignment import Search
from models.clustering.clusters import Backend, Clusters
from models.clustering.kmeans import Clustering, KMeans, Pass, PassState, assign_to_centers
from models.clustering.points import Points
from models.embeddings.embeddings import Embeddings
from models.training.checkpoints import Checkpoint, Checkpoints

ITEMS_PER_CLUSTER = 20
"""Pictures per cluster unless `num_clusters` is given. The paper has 600, at 6e7 pictures; shops are smaller."""


def cluster(
    embeddings: Embeddings | Location | str,
    output: Location | str,
    *,
    num_clusters: int | None = None,
    backend: Backend = "scann",
    like: Clusters | Location | str | None = None,
    normalize: bool = True,
    spherical: bool = False,
    threshold: float = 0.0,
    max_passes: int = 25,
    tolerance: float = 1e-4,
    seed: int = 0,
    workers: int | None = None,
    restart: bool = False,
    overwrite: bool = False,
) -> Clusters:
    """Clusters the embeddings of all items with a picture by k-means, or assigns them to centers that exist.

    A run that was killed leaves `<output>.checkpoints`. The same call goes on there and ends with the same files.

    Args:
        embeddings: what `embed` or `whiten` wrote.
        output: directory to write.
        num_clusters: number of clusters; `None` for one for 20 pictures.
        backend: nearest-center search of k-means: `scann`; `cells`, the fastest from 1e4 clusters on; `exact`, the
            reference. `single_pass` learns from each picture once, searching cells, for more pictures than k-means has
            time for.
        like: clusters to whose centers pictures are assigned; nothing is learnt. How they were made goes for `backend`
            and `normalize`, too.
        normalize: whether to scale embeddings to unit length, for cosine instead of Euclidean distance.
        spherical: whether to keep centers at unit length, too.
        threshold: of `single_pass`: smaller coordinates of centers become zero.
        max_passes: largest number of passes over all embeddings.
        tolerance: stop when a pass lowers the mean squared distance by less than this share of it.
        seed: of the start, samples and splits.
        workers: threads; `None` for one for each core.
        restart: whether to throw away what an interrupted run has left instead of going on.
        overwrite: whether to replace `output` if it exists.

    Returns:
        The clusters at `output`.

    Raises:
        InputError: an argument is out of its range or does not go with another.
        ArtifactError: there are no such embeddings, one of them is not finite, `like` has centers of other embeddings,
            or `output` exists.

    Example:
        >>> cluster("artifacts/embeddings", "artifacts/clusters", num_clusters=60)
        <Clusters artifacts/clusters: 60 clusters of 1200 pictures, dim=256, scann, centers cfa21225890c>
    """
    if backend not in get_args(Backend):
        raise InputError(f"`backend` must be one of {', '.join(get_args(Backend))}. Received: {backend}")
    lower_bounds = {
        "max_passes": (max_passes, 1),
        "workers": (workers, 1),
        "tolerance": (tolerance, 0),
        "threshold": (threshold, 0),
        "seed": (seed, 0),
    }
    for name, (value, smallest) in lower_bounds.items():
        if value is not None and value < smallest:
            raise InputError(f"`{name}` must be at least {smallest}. Received: {value}")
    if threshold and backend != "single_pass":
        raise InputError(f"`threshold` is for `backend` single_pass. Received: `backend` {backend}")
    if spherical and not normalize:
        raise InputError("`spherical` is for embeddings of unit length; leave out `normalize`")
    output = as_location(output)
    if not isinstance(embeddings, Embeddings):
        with about("embeddings"):
            embeddings = Embeddings.load(embeddings)
    if like is not None:
        for name, given in (("num_clusters", num_clusters), ("spherical", spherical), ("threshold", threshold)):
            if given:
                raise InputError(f"`{name}` is of new centers; leave it out with `like`")
        return _assign(embeddings, output, like, workers, overwrite)

    metadata = embeddings.metadata
    pictures = metadata.items_with_image
    if num_clusters is None:
        num_clusters = max(1, pictures // ITEMS_PER_CLUSTER)
    if not 1 <= num_clusters <= pictures:
        raise InputError(
            f"`num_clusters` must be between 1 and the {pictures} items with a picture. Received: {num_clusters}"
        )
    # Checkpoints of other values are those of another run.
    options = {
        "num_clusters": num_clusters,
        "backend": backend,
        "normalize": normalize,
        "spherical": spherical,
        "threshold": threshold,
        "max_passes": max_passes,
        "tolerance": tolerance,
        "seed": seed,
        "embeddings": metadata.digest(),
    }
    kmeans = KMeans(
        num_clusters,
        search=_search(backend),
        schedule="single_pass" if backend == "single_pass" else "passes",
        spherical=spherical,
        threshold=threshold,
        max_passes=max_passes,
        tolerance=tolerance,
        seed=seed,
        workers=workers,
    )
    with whole_directory(output, overwrite=overwrite, inputs=[embeddings.path]) as directory:
        checkpoints = Checkpoints(output.with_name(f"{output.name}.checkpoints"), options, restart=restart)
        say(f"{pictures} pictures into {num_clusters} clusters ({backend})")
        with checkpoints:
            points = Points(embeddings.vectors, embeddings.has_image, normalize=normalize)
            clustering = _fit(kmeans, points, checkpoints, embeddings.path)
        written = Clusters.save(
            directory,
            clustering.ids,
            clustering.centers,
            embeddings=metadata,
            backend=backend,
            normalize=normalize,
            spherical=spherical,
            mean_squared_distance=clustering.mean_squared_distance,
            seed=seed,
        )
    checkpoints.remove()
    return Clusters(output, written.metadata)


def _fit(kmeans: KMeans, points: Points, checkpoints: Checkpoints, source: Location) -> Clustering:
    """Runs k-means with a progress bar and a checkpoint after every pass, from the latest checkpoint on."""
    latest = checkpoints.latest()
    state = None
    if latest is not None:
        say(f"goes on after pass {latest.step}")
        state = PassState(
            latest.step,
            latest.arrays["centers"],
            latest.arrays["ids"],
            math.inf if latest.state["mean_squared_distance"] is None else latest.state["mean_squared_distance"],
            latest.state["converged"],
        )

    def keep(state: PassState) -> None:
        arrays = {"centers": state.centers, "ids": state.ids}
        # Infinite until a pass has seen all points, which JSON has no number for.
        others = finite({"mean_squared_distance": state.mean_squared_distance, "converged": state.converged})
        checkpoints.write(Checkpoint(state.number, arrays, others))

    def report(done: Pass) -> None:
        say(
            f"pass {done.number}: {done.points} pictures, mean squared distance {done.mean_squared_distance:.5f}, "
            f"{done.moved:.1%} moved, {done.empty} empty split, imbalance {done.imbalance:.2f}, {done.seconds:.1f} s"
        )

    with progress_bar(unit=" pictures", unit_scale=True) as bar:
        try:
            return kmeans.fit(points, on_rows=bar.update, on_pass=report, state=state, on_state=keep)
        except ValueError as error:
            raise ArtifactError(f"`embeddings` {source}: {error}") from error


def _assign(
    embeddings: Embeddings, output: Location, like: Clusters | Location | str, workers: int | None, overwrite: bool
) -> Clusters:
    """Writes the clusters `like` with the IDs of these embeddings' items."""
    if not isinstance(like, Clusters):
        with about("like"):
            like = Clusters.load(like)
    made = like.metadata
    if difference := made.embeddings.space_difference(embeddings.metadata):
        raise ArtifactError(f"`like`: {like.path} and `embeddings` {embeddings.path} must not be mixed; {difference}")
    with (
        whole_directory(output, overwrite=overwrite, inputs=[embeddings.path, like.path]) as directory,
        progress_bar(total=embeddings.metadata.items_with_image, unit=" pictures", unit_scale=True) as bar,
    ):
        try:
            clustering = assign_to_centers(
                Points(embeddings.vectors, embeddings.has_image, normalize=made.normalize),
                like.centers,
                search=_search(made.backend),
                workers=workers,
                on_rows=bar.update,
            )
        except ValueError as error:
            raise ArtifactError(f"`embeddings` {embeddings.path}: {error}") from error
        written = Clusters.save(
            directory,
            clustering.ids,
            like.centers,
            embeddings=embeddings.metadata,
            backend=made.backend,
            normalize=made.normalize,
            spherical=made.spherical,
            mean_squared_distance=clustering.mean_squared_distance,
            seed=made.seed,
        )
    return Clusters(output, written.metadata)


def _search(backend: Backend) -> Search:
    """The nearest-center search of a backend."""
    return "cells" if backend == "single_pass" else backend
