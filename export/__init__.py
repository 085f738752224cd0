"""From a trained ranker to a TensorFlow Serving endpoint, and to its scores.

What scripts use is here, and is loaded when it is first asked for: importing the package imports no TensorFlow.

Example:
    >>> from export import Endpoint, Page, RankerClient, publish
    >>> publish("artifacts/ranker", "artifacts/serving")
    >>> with Endpoint.of_base_path("artifacts/serving") as endpoint, RankerClient(endpoint.listening.grpc) as client:
    ...     scores = client.rank(Page(user_id="anna", item_ids=["ring-1", "ring-2"]))
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.client.experiment_client import ExperimentClient
    from export.client.page import History, Page, PageError
    from export.client.predict_client import RankerError
    from export.client.ranker_client import RankerClient, Recommendation
    from export.client.retrieval_client import RetrievalClient
    from export.daily.bounds import DayBounds
    from export.daily.day_check import DayRefusedError
    from export.daily.plan import DailyOptions, run_day
    from export.gates.version_check import VersionError
    from export.retrieval.publish import publish_retrieval
    from export.server.endpoint import Endpoint
    from export.version.publish import PublishedVersion, publish

_HOMES = {
    "DailyOptions": "export.daily.plan",
    "DayBounds": "export.daily.bounds",
    "DayRefusedError": "export.daily.day_check",
    "Endpoint": "export.server.endpoint",
    "ExperimentClient": "export.client.experiment_client",
    "History": "export.client.page",
    "Page": "export.client.page",
    "PageError": "export.client.page",
    "PublishedVersion": "export.version.publish",
    "RankerClient": "export.client.ranker_client",
    "RankerError": "export.client.predict_client",
    "Recommendation": "export.client.ranker_client",
    "RetrievalClient": "export.client.retrieval_client",
    "VersionError": "export.gates.version_check",
    "publish": "export.version.publish",
    "publish_retrieval": "export.retrieval.publish",
    "run_day": "export.daily.plan",
}

__all__ = [*_HOMES]

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as in models: TensorFlow reads it when it is first imported


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
