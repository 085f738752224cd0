"""A Python client for a served ranker, over gRPC: `RankerClient(address).rank(page)`."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.records import HISTORIES
from export.client.page import History, Page, PageError
from export.client.predict_client import PredictClient, RankerError, SignatureInputs
from export.client.retrieval_client import RetrievalClient

_SIGNATURE = "serving_default"


class Ranking(NamedTuple):
    """Scores by item, best first, and the version that gave them; `None` if there was nothing to score."""

    scores: dict[str, float]
    version: int | None


class Recommendation(NamedTuple):
    """What a user may be shown, and how it came about.

    Attributes:
        scores: the ranker's scores by item, best first.
        candidates: the retriever's scores of all candidates that were ranked, best first.
        retrieval_version, ranker_version: which versions answered; the latter `None` if there was nothing to rank.
        retrieval_seconds, ranking_seconds: how long each took, as the caller sees it.
    """

    scores: dict[str, float]
    candidates: dict[str, float]
    retrieval_version: int
    ranker_version: int | None
    retrieval_seconds: float
    ranking_seconds: float


class RankerClient(PredictClient):
    """Ranks pages with a ranker behind TensorFlow Serving or `export.serve`; a context manager.

    One client may be used by several threads.

    Args:
        address, model, options: as of `PredictClient`.
        retriever: where `recommend` finds candidates; unset: the model `retrieval` at the same address. The client
            closes it.

    Example:
        >>> with RankerClient("127.0.0.1:8500") as client:
        ...     scores = client.rank(Page(user_id="anna", item_ids=["ring-1", "ring-2"]))
    """

    version: int | None = None
    """The version that gave the last scores."""
    _inputs: SignatureInputs | None = None

    def __init__(
        self, address: str, model: str = "ranker", *, retriever: RetrievalClient | None = None, **options: Any
    ) -> None:
        super().__init__(address, model, **options)
        timeout = {"timeout": options["timeout"]} if "timeout" in options else {}
        self._retriever = RetrievalClient(address, **timeout) if retriever is None else retriever

    def close(self) -> None:
        """Closes the connections."""
        super().close()
        self._retriever.close()

    def rank(self, page: Page, output: str = "ctr") -> dict[str, float]:
        """Scores the candidates of a page.

        Args:
            page: the page.
            output: which score: `ctr`, and `ctcvr`, `long_visit` or `dwell` if the ranker has learned them.

        Returns:
            Scores by item, best first. `version` of the client is then the version that gave them.

        Raises:
            RankerError: it was not ranked; the class says why.
            PageError: a value on the page is not of the type that the ranker reads.
        """
        ranking = self.ranking(page, output)
        self.version = ranking.version if ranking.scores else self.version
        return ranking.scores

    def ranking(self, page: Page, output: str = "ctr") -> Ranking:
        """Scores the candidates of a page, as `rank` does, and says which version did.

        Raises:
            RankerError: it was not ranked; the class says why.
            PageError: a value on the page is not of the type that the ranker reads.
        """
        if not page.item_ids:
            return Ranking({}, None)
        inputs = page_inputs(page, self.inputs)
        try:
            version, outputs = self.predict(_SIGNATURE, inputs, [output])
        except RankerError:
            self._inputs = None  # perhaps those of another version
            raise
        if self._inputs is not None and version != self._inputs.version:
            self._inputs = None
        scores = outputs[output][0, : len(page.item_ids)]
        best_first = np.argsort(-scores, kind="stable")
        return Ranking({page.item_ids[n]: float(scores[n]) for n in best_first}, version)

    def recommend(
        self,
        user: str | Page,
        k: int = 20,
        *,
        candidates: int = 200,
        describe: Callable[[Sequence[str]], Mapping[str, Sequence[Any]]] | None = None,
        exclude_seen: bool = True,
        output: str = "ctr",
    ) -> Recommendation:
        """Retrieves candidates for a user and ranks them.

        Args:
            user: the ID of the user, or a page without items, which also knows histories, moment and query: both stages
                read the histories.
            k: how many items.
            candidates: how many of the retriever's items are ranked; it finds as many as it was published with at most.
            describe: called with the candidates' IDs; returns what else is known of them, as `Page.candidates` has it.
            exclude_seen: whether items that the user has, or that the histories name, are left out.
            output: which score of the ranker; see `rank`.

        Raises:
            RankerError: one of the two has not answered; the class says why.
            PageError: a value on the page is not of the type that the ranker reads.
            InputError: the page has items already.

        Example:
            >>> with RankerClient("127.0.0.1:8500") as client:
            ...     scores = client.recommend("anna", k=10).scores
        """
        page = Page(user, ()) if isinstance(user, str) else user
        if page.item_ids:
            raise InputError(f"`user` must be a page without items. Received: {len(page.item_ids)} of them")
        start = time.perf_counter()
        found = self._retriever.candidates(page.user_id, page.histories, exclude_seen=exclude_seen)
        retrieved = time.perf_counter()
        items = list(itertools.islice(found.scores, candidates))
        known = describe(items) if describe is not None and items else {}
        described = time.perf_counter()
        ranking = self.ranking(dataclasses.replace(page, item_ids=items, candidates=known), output)
        ranked = time.perf_counter()
        return Recommendation(
            dict(itertools.islice(ranking.scores.items(), k)),
            {item: found.scores[item] for item in items},
            found.version,
            ranking.version,
            retrieved - start,
            ranked - described,
        )

    @property
    def inputs(self) -> Mapping[str, tf.DType]:
        """Name and type of what the ranker reads of a page; asked for once per version.

        Raises:
            RankerError: the server does not say.
        """
        inputs = self._inputs
        if inputs is None:
            inputs = self._inputs = self.signature_inputs(_SIGNATURE)
        return inputs.types

    def inputs_of(self, user_id: str) -> Mapping[str, tf.DType]:
        """The same as `inputs`, whoever the user is; an `ExperimentClient` asks the version of the user's arm."""
        del user_id
        return self.inputs


def page_inputs(page: Page, types_by_name: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """A page as the inputs of `serving_default`: one row.

    Raises:
        PageError: a value is of another type.
    """
    values: dict[str, Any] = {"user_id": page.user_id, "query": page.query, "timestamp": page.timestamp}
    values |= {"item_id": page.item_ids, **page.candidates}
    for name in HISTORIES:
        history = page.histories.get(name, History())
        values |= {f"{name}_item_id": history.item_ids, f"{name}_time": history.times}
    return {name: _row(name, value, types_by_name.get(name)) for name, value in values.items()}


def _row(name: str, value: Any, dtype: tf.DType | None) -> np.ndarray:
    scalars: list[Any] = [value] if isinstance(value, str | int) else list(value)
    # An input that the ranker does not have is sent as it is: the server's answer names it.
    is_text = dtype == tf.string if dtype is not None else all(isinstance(scalar, str) for scalar in scalars)
    try:
        if is_text:
            array = np.empty(len(scalars), object)
            array[:] = [scalar.encode() for scalar in scalars]
        else:
            array = np.array(scalars, None if dtype is None else dtype.as_numpy_dtype)
            if dtype is not None and dtype.is_integer and any(type(scalar) is float for scalar in scalars):
                raise TypeError("a fraction")
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        kind = "text" if is_text else dtype.name if dtype is not None else "numbers"
        raise PageError(f"{name}: must be {kind}. Received: {str(value)[:80]}") from error
    return array if isinstance(value, str | int) else array[None]
