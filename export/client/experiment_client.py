"""Ranks pages in an experiment: each user by the version or label of the user's arm, with a log of who saw what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import tensorflow as tf

from export.client.page import Page
from export.client.predict_client import RankerError
from export.client.ranker_client import RankerClient
from models.experiments.experiment import Arm, Experiment
from models.experiments.exposures import ExposureLog


class ExperimentClient:
    """Ranks pages by the arm of their user; a context manager.

    One client may be used by several threads. Users who do not take part get the control's version and no exposure.

    Args:
        address: `host:port` of the gRPC services; see `PredictClient`.
        experiment: the experiment, or the JSON file of it.
        exposures: the file to which exposures are appended, a JSON object per line.
        model: the model's name.
        timeout: seconds after which a request is given up.

    Raises:
        ConfigurationError: the file says no experiment.

    Example:
        >>> with ExperimentClient("127.0.0.1:8500", "pictures.json", "exposures.jsonl") as client:
        ...     scores = client.rank(Page(user_id="anna", item_ids=["ring-1", "ring-2"], page_id="p-1"))
    """

    arm: Arm | None = None
    """The arm of the last page's user; `None` for a user who does not take part."""
    version: int | None = None
    """The version that gave the last scores."""

    def __init__(
        self,
        address: str,
        experiment: Experiment | Path | str,
        exposures: Path | str,
        model: str = "ranker",
        *,
        timeout: float = 10.0,
    ) -> None:
        self.experiment = experiment if isinstance(experiment, Experiment) else Experiment.read(experiment)
        self._clients = {
            arm.name: RankerClient(address, model, version=arm.version, label=arm.label, timeout=timeout)
            for arm in self.experiment.arms
        }
        self._log = ExposureLog(exposures)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rank(self, page: Page, output: str = "ctr") -> dict[str, float]:
        """Scores the candidates of a page and logs the exposure.

        A page that its arm's version did not rank is logged, too, without a version: an arm that fails would lose just
        the users whom it fails otherwise, and the arms would be alike no more.

        Args:
            page: the page.
            output: which score; see `RankerClient`.

        Returns:
            Scores by item, best first. `arm` and `version` of the client are then those that gave them.

        Raises:
            RankerError: it was not ranked; the class says why.
            PageError: a value on the page is not of the type that the ranker reads; nothing is logged.
        """
        arm = self.experiment.arm(page.user_id)
        client = self._client(arm)
        try:
            scores, version = client.ranking(page, output)
        except RankerError:
            self._expose(arm, page, None)
            raise
        self._expose(arm, page, version)
        self.arm, self.version = arm, version
        return scores

    def inputs_of(self, user_id: str) -> Mapping[str, tf.DType]:
        """Name and type of what the ranker of a user's arm reads of a page.

        Raises:
            RankerError: the server does not say.
        """
        return self._client(self.experiment.arm(user_id)).inputs

    def _client(self, arm: Arm | None) -> RankerClient:
        return self._clients[(arm or self.experiment.arms[0]).name]

    def _expose(self, arm: Arm | None, page: Page, version: int | None) -> None:
        if arm is not None:
            self._log.append(self.experiment.name, arm.name, page.user_id, page.page_id, page.timestamp, version)

    def close(self) -> None:
        """Closes the connections and the log."""
        for client in self._clients.values():
            client.close()
        self._log.close()
