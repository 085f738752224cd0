"""What a retrieval version is made of: vectors of users and items, and how a history becomes one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from models.retrieval.interactions import Pairs
from models.retrieval.run import RetrievalRun
from models.retrieval.two_tower.two_tower import TwoTower


class HistoryTower(NamedTuple):
    """A user tower.

    Attributes:
        base: what items are as steps, float32 `(items, dim)`.
        encode: from `base` and the item rows of two histories, clicks and payments, newest first, -1 at padding, to
            vectors `(batch, dim)`.
        variables: what `encode` reads.
        click_steps, pay_steps: how many steps it reads.
    """

    base: np.ndarray
    encode: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
    variables: list[tf.Variable]
    click_steps: int
    pay_steps: int


class ServedVectors(NamedTuple):
    """Everything of a retriever that answers.

    Attributes:
        item_ids, user_ids: string IDs by row.
        items, users: vectors float32 `(rows, dim)`, whose products are the scores.
        seen: what users have, and may not want again.
        tower: for users by their histories; `None` where a user is a row alone.
    """

    item_ids: list[str]
    user_ids: list[str]
    items: np.ndarray
    users: np.ndarray
    seen: Pairs
    tower: HistoryTower | None

    @classmethod
    def of(cls, run: RetrievalRun) -> "ServedVectors":
        """Those of a run.

        Raises:
            ArtifactError: a file of the run is missing or damaged, or its vectors are not finite.
        """
        model = run.model
        assert model.seen is not None  # as it was saved with them
        tower = None
        if isinstance(model, TwoTower):
            variables = [variable.value for variable in model.variables]
            steps = model.config.click_steps, model.config.pay_steps
            tower = HistoryTower(model.base_vectors(), model.users_from, variables, *steps)
        items, users = np.array(run.item_vectors), np.array(run.user_vectors)
        if not (np.isfinite(items).all() and np.isfinite(users).all()):
            raise ArtifactError(f"{run.path} has vectors that are not finite")
        return cls(run.item_ids, run.user_ids, items, users, model.seen, tower)
