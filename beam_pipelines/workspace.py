"""What workers and the driver of a build leave for each other inside the dataset; it vanishes when the build ends."""

import json
import shutil
from pathlib import Path
from typing import Any

from beam_pipelines.format.outputs import whole_file

RESULTS = "results"
"""What was written, told by whoever wrote it: the driver reads it."""
SCRATCH = "scratch"
"""What one transform hands to the next."""
_STEPS = (RESULTS + "/[!.]*", *(f"{SCRATCH}/{kind}-*" for kind in ("impressions", "events", "prepared")))


def make_workspace(dataset: Path) -> None:
    """Makes the directories."""
    for name in (RESULTS, SCRATCH):
        (dataset / name).mkdir()


def remove_workspace(dataset: Path) -> None:
    """Removes the directories and all in them."""
    for name in (RESULTS, SCRATCH):
        shutil.rmtree(dataset / name)


def write_result(dataset: Path, name: str, result: dict[str, Any]) -> None:
    """Leaves `results/NAME` for the driver, whole or not at all."""
    with whole_file(dataset / RESULTS / name) as path:
        path.write_text(json.dumps(result))


def count_finished_steps(dataset: Path) -> int:
    """How many parts were read, buckets prepared and files of results written so far, whatever the runner."""
    return sum(1 for pattern in _STEPS for _ in dataset.glob(pattern))
