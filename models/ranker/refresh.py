"""Carries a trained ranker to a later dataset without training: the same scores, of items that have come since, too."""

import numpy as np

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import say
from models.data.dataset import Dataset
from models.features.adapt import adapt_features
from models.features.spec import STATISTICS
from models.features.training_counts import TrainingCounts
from models.ranker.adapt import PictureSources, check_pictures, picture_inputs
from models.ranker.ranker import Ranker
from models.ranker.run import RankerRun
from models.ranker.warm_start import WarmStart

_EXAMPLE_PAGES = 64


def refresh_ranker(
    run: Location | str,
    data: Dataset | Location | str,
    output: Location | str,
    *,
    pictures: PictureSources = None,
    overwrite: bool = False,
) -> RankerRun:
    """Writes the run of a ranker whose tables are those of a later dataset and whose weights are as they were.

    Every candidate that the earlier ranker could score keeps its score. New items have what is known of them but the
    ID, exactly as if a client had brought it; new users are unknown.

    Args:
        run: the trained ranker's run directory.
        data: the later dataset, with other items and users.
        output: run directory to write.
        pictures: embeddings of its items, or clusters, or both: of the encoder and the centers that the ranker knows.
        overwrite: whether to replace an output that exists.

    Returns:
        The run at `output`. It says of itself what the ranker has learned on, not what its tables are from.

    Raises:
        InputError: the pictures are not those that the ranker knows, or are of other items.
        ArtifactError: there is no such run, or the output exists.
    """
    dataset, output = data if isinstance(data, Dataset) else Dataset(data), as_location(output)
    with about("run"):
        earlier = WarmStart(run)
    old = earlier.ranker
    inputs = picture_inputs(pictures, earlier.metadata.image_feature)
    with about("pictures"):
        for each in inputs.sources:
            check_pictures(each, dataset, allow_window_overlap=True)
    embeddings = inputs.embeddings_metadata()
    clusters = None if inputs.clusters is None else inputs.clusters.metadata
    items, users = dataset.items(), dataset.users()
    pages = dataset.pages("train" if "train" in dataset.manifest.splits else next(iter(dataset.manifest.splits)))
    nothing = TrainingCounts(
        np.zeros(len(items), np.int64), np.zeros(len(users), np.int64), {name: np.zeros(0) for name in STATISTICS}
    )
    lengths = old.config.lengths
    lengths = lengths.model_copy(update={"candidates": max(lengths.candidates, dataset.manifest.max_candidates)})
    config = old.config.model_copy(update={"lengths": lengths})
    features = adapt_features(
        config.features,
        items,
        users,
        nothing,
        token_buckets=config.token_buckets,
        known=earlier.known(items, users, embeddings, clusters),
        **inputs.values(),
    )
    with whole_directory(output, overwrite=overwrite, inputs=[dataset.path, earlier.path]) as scratch:
        ranker = Ranker(config, features.sizes, inputs.image_feature, old.negative_rate, calibrator=old.calibrator)
        ranker.fill(features)
        carried = earlier.fill(ranker, items, users, embeddings, clusters)
        if "initialised" in carried:
            raise InputError(f"`pictures` must be those that {earlier.path} was trained with; {carried}")
        say(carried)
        metadata = earlier.metadata.model_copy(
            update={
                "item_ids_sha256": dataset.manifest.items.ids_sha256,
                "user_ids_sha256": dataset.manifest.users.ids_sha256,
                "embeddings": embeddings,
                "clusters": clusters,
            }
        )
        RankerRun.save(
            scratch,
            ranker,
            metadata,
            earlier.run.config().model_copy(update={"ranker": config}),
            items=items,
            users=users,
            history=earlier.run.history(),
            example_records=[*pages.records().take(_EXAMPLE_PAGES).as_numpy_iterator()],
            training_counts=earlier.training_counts(items),
        )
    return RankerRun(output)
