"""Says in words when embeddings collapse: all pictures alike, so that nothing is told apart."""

import math
from collections.abc import Mapping
from typing import Any

from beam_pipelines.shell.progress import warn
from models.pretraining.monitor.step_means import StepCallback
from models.training.replicas import is_chief

_PARTS = 10  # of an epoch, each of which must look collapsed
_NEAR = 0.01
_SMALLEST_RANK = 1.5


def collapse_loss(logs: Mapping[str, float], prefix: str = "") -> float | None:
    """The page-view loss if all embeddings were alike: ln of `valid_rows`, the candidates that a softmax runs over.

    Args:
        logs: of Keras.
        prefix: of their names, `val_` for those of validation.

    Returns:
        The loss, None without `valid_rows`.
    """
    rows = logs.get(f"{prefix}valid_rows", 0.0)
    return math.log(rows) if rows > 1 else None


class CollapseWarning(StepCallback):
    """Warns after an epoch that looks collapsed.

    That is one whose page-view loss stayed within 1 % of the loss of embeddings that are all alike, or after which the
    validation pictures have an effective rank below 1.5. Put it behind `SimilarityValidation`.
    """

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: nothing is known of the epoch yet."""
        super().on_epoch_begin(epoch, logs)
        self._near: list[bool] = []

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Looks at each tenth of the epoch."""
        steps = self.params["steps"]
        if step * _PARTS // steps > (step - 1) * _PARTS // steps:
            part = self.step_means.means(step, logs)
            self.step_means.begin(step, logs)
            alike = collapse_loss(part)
            if alike is not None and "page_view_loss" in part:
                self._near.append(abs(part["page_view_loss"] - alike) <= _NEAR * alike)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: says what was seen."""
        if not is_chief(self.model.distribute_strategy):
            return
        signs = []
        if self._near and all(self._near):
            signs.append(
                f"the page-view loss stayed at {logs['page_view_loss']:.2f} for the whole epoch, and embeddings that "
                f"are all alike have {collapse_loss(logs):.2f} (ln of {logs['valid_rows']:.0f} candidates)"
            )
        if logs.get("val_effective_rank", math.inf) < _SMALLEST_RANK:
            cosine = logs["val_mean_cosine"]
            signs.append(
                f"the embeddings of the validation pictures spread over {logs['val_effective_rank']:.2f} directions "
                + ("(there is one picture)" if math.isnan(cosine) else f"(mean cosine {cosine:.3f})")
            )
        if signs:
            warn(
                f"epoch {epoch + 1} looks like a collapse: {'; '.join(signs)}. Pictures are hardly told "
                "apart; if it lasts, lower learning_rate"
            )
