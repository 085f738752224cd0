"""Rankers that have learned apart, as the members of one."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from models.data.dataset import Dataset
from models.data.pages import GROUPS, page_batches
from models.evaluation.measure import measure
from models.evaluation.scored_pages import score_pages
from models.ranker.ranker import Ranker
from models.ranker.run import RankerRun
from models.ranker.train import VALIDATION_BATCH, fit_calibrator


def join_rankers(
    data: Dataset | Location | str,
    runs: Sequence[RankerRun | Location | str],
    output: Location | str,
    *,
    overwrite: bool = False,
) -> RankerRun:
    """Writes a ranker whose members are those of several rankers.

    Its log-odds are the mean of theirs, calibrated on the validation pages. Members of one training see the same
    batches and share what these teach by chance; rankers with seeds of their own do not, so that their mean is better.
    They may learn at the same time, on several machines.

    Args:
        data: the dataset that they learned on, or its location.
        runs: two runs or more, or their locations. They may differ in the seed, the number of members and how they
            learned, not in what they read.
        output: run directory to write.
        overwrite: whether it may replace an earlier run.

    Raises:
        InputError: the rankers do not belong together or to the dataset, or what members share is not the same in all.

    Example:
        >>> runs = [train_ranker("artifacts/dataset", f"artifacts/ranker_{seed}", seed=seed) for seed in range(4)]
        >>> join_rankers("artifacts/dataset", runs, "artifacts/ranker")

    Reference: Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles
    (NeurIPS 2017), whose networks each see the data in an order of their own.
    """
    if len(runs) < 2:
        raise InputError(f"`runs` must be two or more. Received: {len(runs)}")
    dataset, output = data if isinstance(data, Dataset) else Dataset(data), as_location(output)
    opened = [run if isinstance(run, RankerRun) else RankerRun(run) for run in runs]
    first, config = opened[0], opened[0].config()
    if first.metadata.dataset_digest != dataset.manifest.digest():
        raise InputError(f"`data` must be the dataset that {first.path} learned on. Received: {dataset.path}")
    for run in opened[1:]:
        _check_alike(first, run)
    with whole_directory(output, overwrite=overwrite, inputs=[dataset.path, *(run.path for run in opened)]) as scratch:
        ranker = _joined(opened)
        _, later = dataset.pages("train").split(1 - config.validation_share)
        lengths, window = ranker.config.lengths, later.window
        batches = page_batches(dataset, "train", lengths, batch_size=VALIDATION_BATCH, window=window, to_longest=GROUPS)
        scores = score_pages(ranker, batches)
        ranker.calibrator = fit_calibrator(config.calibration, scores, ranker.negative_rate)
        validation = measure(scores.calibrated(ranker.calibrator), ranker.negative_rate)
        RankerRun.save(
            scratch,
            ranker,
            first.metadata.model_copy(update={"validation": validation}),
            config.model_copy(update={"ranker": ranker.config}),
            items=first.items(),
            users=first.users(),
            example_records=first.example_records(),
            training_counts=first.training_counts(),
        )
    return RankerRun(output)


def _check_alike(first: RankerRun, run: RankerRun) -> None:
    """Refuses rankers that read different things, or whose validation pages another has learned on."""
    mine, theirs = (_reads(each) for each in (first, run))
    for name, value in mine.items():
        if theirs.get(name) != value:
            raise InputError(
                f"`runs`: {run.path} cannot join {first.path}, for their {name} differs. "
                f"Received: {theirs.get(name)} and {value}"
            )


def _reads(run: RankerRun) -> Mapping[str, Any]:
    config = run.config()
    metadata = run.metadata.model_dump(mode="json", exclude={"seed", "validation"})
    ranker = {f"ranker.{name}": value for name, value in config.ranker.flat(exclude={"members"}).items()}
    return {**metadata, **ranker, "validation_share": config.validation_share}


def _joined(runs: Sequence[RankerRun]) -> Ranker:
    """A ranker with the members of all runs, not calibrated."""
    rankers = [run.ranker() for run in runs]
    first, shared = rankers[0], _shared(rankers[0])
    for run, ranker in zip(runs[1:], rankers[1:], strict=True):
        for mine, theirs in zip(shared, _shared(ranker), strict=True):
            if not np.array_equal(mine.numpy(), theirs.numpy()):
                raise InputError(
                    f"`runs`: {run.path} cannot join {runs[0].path}, for members share {mine.path}, and theirs differ"
                )
    members = [member for ranker in rankers for member in ranker.members]
    config = first.config.model_copy(update={"members": len(members)})
    joined = Ranker(config, first.sizes, first.image_feature, first.negative_rate, vocabulary=first.vocabulary)
    for target, source in zip(_shared(joined), shared, strict=True):
        target.assign(source)
    for mine, theirs in zip(joined.members, members, strict=True):
        for target, source in zip(mine.variables, theirs.variables, strict=True):
            target.assign(source)
    return joined


def _shared(ranker: Ranker) -> list[keras.Variable]:
    """What belongs to no member: tables, and what is learned of numbers in quantiles or of pictures alone."""
    of_members = {id(variable) for member in ranker.members for variable in member.variables}
    return [variable for variable in ranker.variables if id(variable) not in of_members]
