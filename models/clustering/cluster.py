"""Turns the image embeddings of all items of a dataset into cluster IDs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from beam_pipelines.format.errors import ArtifactError, InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.format.text_file import finite
from beam_pipelines.shell.progress import progress_bar, say
from models.clustering.assignment import Search
from models.clustering.clusters import Backend, Clusters
from models.clustering.hash_ids import hash_clusters
from models.clustering.kmeans import Clustering, KMeans, Pass, PassState, assign_to_centers
from models.clustering.points import Level, Points
from models.clustering.replacement import Replacement, match_clusters
from models.embeddings.embeddings import Embeddings
from models.training.checkpoints import Checkpoint, Checkpoints

ITEMS_PER_CLUSTER = 20
"""Pictures per cluster unless `num_clusters` is given. The paper has 600, at 6e7 pictures; shops are smaller."""

_SEMANTIC_IDS = 2**62


def cluster(
    embeddings: Embeddings | Location | str,
    output: Location | str,
    *,
    num_clusters: int | None = None,
    levels: int = 1,
    backend: Backend = "scann",
    like: Clusters | Location | str | None = None,
    replace: Clusters | Location | str | None = None,
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
        levels: of clusterings, for semantic IDs: each clusters what the centers of the level above leave of a picture,
            into as many clusters.
        backend: nearest-center search of k-means: `scann`; `cells`, the fastest from 1e4 clusters on; `exact`, the
            reference. `single_pass` learns from each picture once, searching cells, for more pictures than k-means has
            time for. `hash` learns nothing: the hash value of an embedding is its ID, the paper's rejected variant.
        like: clusters to whose centers pictures are assigned; nothing is learnt. How they were made goes for `backend`
            and `normalize`, too.
        replace: clusters that the new ones replace: as many unless `num_clusters` says otherwise, and each takes the
            place of the old one that most of its items are from, one to one; see `match_clusters`. A ranker that is
            warm-started goes on with what was learned of the old IDs. They are of the same items, or of embeddings by
            the same encoder.
        normalize: whether to scale embeddings, and what is left of them, to unit length, for cosine instead of
            Euclidean distance.
        spherical: whether to keep centers at unit length, too.
        threshold: of `single_pass`: smaller coordinates of centers become zero.
        max_passes: largest number of passes over all embeddings.
        tolerance: stop when a pass lowers the mean squared distance by less than this share of it.
        seed: of the start, samples and splits, or of the hash.
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
        "levels": (levels, 1),
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
    if backend == "hash" and (levels > 1 or spherical):
        raise InputError("`backend` hash learns no centers; leave out `levels` and `spherical`")
    if spherical and not normalize:
        raise InputError("`spherical` is for embeddings of unit length; leave out `normalize`")
    output = as_location(output)
    if not isinstance(embeddings, Embeddings):
        with about("embeddings"):
            embeddings = Embeddings.load(embeddings)
    if like is not None:
        of_new = {"num_clusters": num_clusters, "levels": levels > 1, "spherical": spherical, "threshold": threshold}
        for name, given in of_new.items():
            if given:
                raise InputError(f"`{name}` is of new centers; leave it out with `like`")
        if replace is not None:
            raise InputError("`replace` is of new centers; leave it out with `like`")
        return _assign(embeddings, output, like, workers, overwrite)

    metadata = embeddings.metadata
    pictures = metadata.items_with_image
    if replace is not None and not isinstance(replace, Clusters):
        with about("replace"):
            replace = Clusters.load(replace)
    old_ids = None if replace is None else _ids_of_old(embeddings, replace, workers)
    if num_clusters is None and replace is not None:
        num_clusters = min(replace.metadata.num_clusters, pictures)
    if num_clusters is None:
        num_clusters = max(1, pictures // ITEMS_PER_CLUSTER)
    if not 1 <= num_clusters <= pictures:
        raise InputError(
            f"`num_clusters` must be between 1 and the {pictures} items with a picture. Received: {num_clusters}"
        )
    if num_clusters**levels >= _SEMANTIC_IDS:
        raise InputError(
            f"`num_clusters` to the power of `levels` must be below {_SEMANTIC_IDS}, so that a semantic ID is an "
            f"integer of 64 bits. Received: {num_clusters} and {levels}"
        )
    if backend == "hash":
        with whole_directory(output, overwrite=overwrite, inputs=[embeddings.path]) as directory:
            hashed = _hashed(embeddings, num_clusters, normalize, seed)
            replacement = _replacement(hashed, replace, old_ids)
            written = _save(directory, embeddings, backend, normalize, spherical, seed, [hashed], replacement)
        return Clusters(output, written.metadata)
    # Checkpoints of other values are those of another run.
    options = {
        "num_clusters": num_clusters,
        "levels": levels,
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
        of_levels = f", {levels} levels" if levels > 1 else ""
        say(f"{pictures} pictures into {num_clusters} clusters ({backend}{of_levels})")
        with checkpoints:
            found = _fit(kmeans, embeddings, normalize, levels, checkpoints)
        replacement = _replacement(found[0], replace, old_ids)
        written = _save(directory, embeddings, backend, normalize, spherical, seed, found, replacement)
    checkpoints.remove()
    return Clusters(output, written.metadata)


def _fit(
    kmeans: KMeans, embeddings: Embeddings, normalize: bool, levels: int, checkpoints: Checkpoints
) -> list[Clustering]:
    """Runs k-means at every level with a progress bar and a checkpoint after every pass, from the latest one on."""
    latest = checkpoints.latest()
    found: list[Clustering] = []
    state, passes = None, 0
    if latest is not None:
        say(f"goes on after pass {latest.step}")
        passes = latest.step
        for level, distance in enumerate(latest.state["levels"]):
            found.append(Clustering(latest.arrays[f"centers_{level}"], latest.arrays[f"ids_{level}"], distance, 0))
        state = PassState(
            latest.state["pass"],
            latest.arrays["centers"],
            latest.arrays["ids"],
            math.inf if latest.state["mean_squared_distance"] is None else latest.state["mean_squared_distance"],
            latest.state["converged"],
        )

    def keep(state: PassState) -> None:
        nonlocal passes
        passes += 1
        arrays = {"centers": state.centers, "ids": state.ids}
        for level, done in enumerate(found):
            arrays |= {f"centers_{level}": done.centers, f"ids_{level}": done.ids}
        others = {
            "pass": state.number,
            "levels": [done.mean_squared_distance for done in found],
            # Infinite until a pass has seen all points, which JSON has no number for.
            "mean_squared_distance": finite(state.mean_squared_distance),
            "converged": state.converged,
        }
        checkpoints.write(Checkpoint(passes, arrays, others))

    def report(done: Pass) -> None:
        say(
            f"pass {done.number}: {done.points} pictures, mean squared distance {done.mean_squared_distance:.5f}, "
            f"{done.moved:.1%} moved, {done.empty} empty split, imbalance {done.imbalance:.2f}, {done.seconds:.1f} s"
        )

    with progress_bar(unit=" pictures", unit_scale=True) as bar:
        while len(found) < levels:
            if levels > 1:
                say(f"level {len(found) + 1}")
            points = _points(embeddings, normalize, found)
            try:
                found.append(kmeans.fit(points, on_rows=bar.update, on_pass=report, state=state, on_state=keep))
            except ValueError as error:
                raise ArtifactError(f"`embeddings` {embeddings.path}: {error}") from error
            state = None
    return found


def _points(embeddings: Embeddings, normalize: bool, above: Sequence[Clustering]) -> Points:
    """What a level clusters."""
    levels = [Level(each.centers, each.ids) for each in above]
    return Points(embeddings.vectors, embeddings.has_image, normalize=normalize, levels=levels)


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
        progress_bar(
            total=embeddings.metadata.items_with_image * made.levels, unit=" pictures", unit_scale=True
        ) as bar,
    ):
        levels: list[Clustering] = []
        for centers in like.level_centers:
            if made.backend == "hash":
                levels.append(_hashed(embeddings, made.num_clusters, made.normalize, made.seed, centers))
                continue
            try:
                levels.append(
                    assign_to_centers(
                        _points(embeddings, made.normalize, levels),
                        centers,
                        search=_search(made.backend),
                        workers=workers,
                        on_rows=bar.update,
                    )
                )
            except ValueError as error:
                raise ArtifactError(f"`embeddings` {embeddings.path}: {error}") from error
        replacement = None
        if made.replaced is not None and like.replaced is not None:
            of = made.replaced
            replacement = Replacement(like.replaced, of.pictures, of.centers_sha256, of.num_clusters)
        how = (made.backend, made.normalize, made.spherical, made.seed)
        written = _save(directory, embeddings, *how, levels, replacement)
    return Clusters(output, written.metadata)


def _hashed(
    embeddings: Embeddings, num_clusters: int, normalize: bool, seed: int, centers: np.ndarray | None = None
) -> Clustering:
    try:
        return hash_clusters(
            embeddings.vectors, embeddings.has_image, num_clusters, normalize=normalize, seed=seed, centers=centers
        )
    except ValueError as error:
        raise ArtifactError(f"`embeddings` {embeddings.path}: {error}") from error


def _save(
    directory: Path,
    embeddings: Embeddings,
    backend: Backend,
    normalize: bool,
    spherical: bool,
    seed: int,
    levels: Sequence[Clustering],
    replacement: Replacement | None = None,
) -> Clusters:
    first, *deeper = levels
    return Clusters.save(
        directory,
        first.ids,
        first.centers,
        embeddings=embeddings.metadata,
        backend=backend,
        normalize=normalize,
        spherical=spherical,
        mean_squared_distance=first.mean_squared_distance,
        seed=seed,
        deeper=deeper,
        replacement=replacement,
    )


def _ids_of_old(embeddings: Embeddings, old: Clusters, workers: int | None) -> np.ndarray:
    """The old clusters of these items: their own if they are the same items, else those of the nearest old centers."""
    made = old.metadata
    if made.embeddings.item_ids_sha256 == embeddings.metadata.item_ids_sha256:
        return old.ids
    if made.backend == "hash" or made.embeddings.space_difference(embeddings.metadata):
        raise ArtifactError(
            f"`replace`: {old.path} is neither of the items of `embeddings` {embeddings.path} nor of the same encoder; "
            "assign these items to it first, with `like`"
        )
    points = _points(embeddings, made.normalize, [])
    return assign_to_centers(points, old.centers, search=_search(made.backend), workers=workers).ids


def _replacement(found: Clustering, old: Clusters | None, old_ids: np.ndarray | None) -> Replacement | None:
    if old is None or old_ids is None:
        return None
    matched = match_clusters(found.ids, old_ids, len(found.centers), old.metadata.num_clusters)
    pictured = (found.ids >= 0) & (old_ids >= 0)
    pictures = int((matched[found.ids[pictured]] == old_ids[pictured]).sum())
    return Replacement(matched, pictures, old.metadata.centers_sha256, old.metadata.num_clusters)


def _search(backend: Backend) -> Search:
    """The nearest-center search of a backend that has one."""
    if backend == "single_pass":
        return "cells"
    assert backend != "hash"
    return backend
