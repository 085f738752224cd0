"""The work of a day: steps that are done once each, whatever kills them, and end with a line in the ledger."""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from beam_pipelines import BuildOptions, build_dataset, check_logs
from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import Location, as_location, is_remote, storage_errors
from beam_pipelines.format.text_file import finite
from export.daily import STEPS
from export.daily.bounds import DayBounds
from export.daily.day_check import DayRefusedError, whats_wrong
from export.daily.day_facts import DayFacts, Span
from export.daily.drift import Histogram, day_inputs, day_scores, drift_of
from export.daily.html import write_page
from export.daily.judgement import CANDIDATE, SERVED, difference, measured, slice_differences, whats_worse
from export.daily.ledger import Ledger, LedgerEntry
from export.daily.state import DayStart, StateDirectory
from export.gates.version_check import VersionError
from export.version.base_path import RANKER_METADATA_FILE, published_versions
from export.version.publish import publish
from export.version.stored_versions import SAVED_MODEL_FILE, stored_versions
from models.artifact import METADATA_NAME
from models.clustering.cluster import cluster
from models.clustering.clusters import Clusters
from models.config import load_config
from models.data.dataset import Dataset
from models.embeddings.embed import Precision, count_pictures, embed
from models.embeddings.embeddings import Embeddings
from models.evaluation.evaluate import evaluate
from models.ranker.adapt import PictureSources
from models.ranker.config import TrainingConfig, image_features_of
from models.ranker.pictures.pictures import PICTURE_FEATURES
from models.ranker.refresh import refresh_ranker
from models.ranker.run import CONFIG_FILE, RankerRun
from models.ranker.train import train_ranker

_TODAY = "train"
"""The split of a day's pages in its dataset."""
_PAGE_OPTIONS = (
    "page_gap_minutes",
    "split_reused_pages",
    "click_days",
    "pay_days",
    "same_category_clicks",
    "max_candidates",
    "image_side",
    "image_format",
)
"""Options of a build that stay what they were on the first day."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DailyOptions:
    """What all days are worked on with.

    Args:
        data: dataset that the first day is built on.
        encoder: encoder of all days' pictures.
        embeddings: of the items of `data`, by this encoder.
        clusters: of these embeddings.
        model: run directory of the ranker that the first day goes on from.
        base_path: where versions are published, a path or a URI.
        reading: how logs are read and how much of them may be lost. How pages and pictures are made stays as in `data`.
        bounds: what a day and a candidate must keep to.
        training: `key=value` texts that change the configuration of `model` for training on a day. Without them, a day
            is one epoch.
        skew_pages: pages by which a version is compared with its ranker before it is published.
        keep_days: how many days' datasets and runs stay; the ledger keeps all.
    """

    data: Location | str = "artifacts/dataset"
    encoder: Location | str = "artifacts/encoder"
    embeddings: Location | str = "artifacts/embeddings"
    clusters: Location | str = "artifacts/clusters"
    model: Location | str = "artifacts/rankers/cluster_id"
    base_path: Location | str = "artifacts/serving"
    reading: BuildOptions = dataclasses.field(default_factory=BuildOptions)
    bounds: DayBounds = dataclasses.field(default_factory=DayBounds)
    training: Sequence[str] = ()
    skew_pages: int = 1000
    keep_days: int = 7


def run_day(
    logs: Location | str,
    day: datetime.date,
    state: Path | str,
    options: DailyOptions | None = None,
    *,
    until: str | None = None,
    restart: bool = False,
) -> LedgerEntry | None:
    """Works on a day: checks and builds it, judges two rankers on it, publishes the better one, and learns from it.

    The candidate of a day is the ranker that has learned up to the day before. It and the version that serves score
    the day's pages before anything learns on them. The candidate is published unless it is worse, overall or in a
    slice; only then is the day learned on, which makes the candidate of the next one. If a candidate is refused, the
    version before goes on serving, and learning goes on from there.

    A call that was killed is made again with the same arguments: steps that are done are not done again, and the ledger
    becomes the same. A day that is in the ledger and was not refused is not worked on again.

    Args:
        logs: log directory with the catalogue, the day's impressions, those of the 30 days before, which item
            statistics count, and events as far as histories reach back.
        day: the day (UTC).
        state: directory for the ledger and for what days hand on; the first day makes it.
        options: what all days are worked on with.
        until: the last of `STEPS` to do now; `None` for all.
        restart: whether to throw away what an unfinished call on this day has made.

    Returns:
        The day in the ledger; `None` if `until` came before its end.

    Raises:
        DayRefusedError: the day must not be used. It is in the ledger, and may be tried again until a later day is.
        InputError: an argument, or what it names, cannot be used; another call is at work in `state`.

    Example:
        >>> entry = run_day("logs/2026-03-09", datetime.date(2026, 3, 9), "artifacts/daily")
        >>> entry.outcome, entry.version
        ('published', 8)
    """
    options = options or DailyOptions()
    if until is not None and until not in STEPS:
        raise InputError(f"`until` must be one of {', '.join(STEPS)}. Received: {until}")
    if options.keep_days < 1:
        raise InputError(f"`keep_days` must be at least 1. Received: {options.keep_days}")
    directory = StateDirectory(Path(state))
    with directory.locked():
        ledger = Ledger(directory.path)
        done = ledger.of(day)
        if ledger and ledger[-1].day > day:
            raise InputError(f"`day`: the ledger ends with {ledger[-1].day}. Received: {day}")
        if done is None or done.outcome == "refused":
            work = _DayWork(as_location(logs), day, directory, ledger, options, restart=restart)
            done = work.run(STEPS if until is None else STEPS[: STEPS.index(until) + 1])
        write_page(ledger, directory.path)
        if done is not None and done.outcome == "refused":
            work.directory.remove()
            serving = "no version serves" if done.version is None else f"version {done.version} goes on serving"
            raise DayRefusedError(f"{day} is refused: {'; '.join(done.reasons)}. {serving.capitalize()}")
        if done is not None:
            directory.remove_days(options.keep_days)
        return done


class _DayWork:
    """The steps of one day. Each returns what is on record of it; what it makes is whole or absent."""

    def __init__(
        self,
        logs: Location,
        day: datetime.date,
        state: StateDirectory,
        ledger: Ledger,
        options: DailyOptions,
        *,
        restart: bool,
    ) -> None:
        self._logs, self._day, self._ledger, self._options = logs, day, ledger, options
        self._start = _start_of(state, ledger, options)
        self.directory = state.day(day)
        if restart:
            self.directory.remove()
        told = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
        told |= {"logs": str(logs), "reading": dataclasses.asdict(options.reading)}
        told |= {"bounds": options.bounds.model_dump(), "start": self._start._asdict()}
        del told["keep_days"]
        self.directory.begin({name: value if isinstance(value, dict) else str(value) for name, value in told.items()})
        self._at = self.directory.path
        self._results: dict[str, dict[str, Any]] = {}

    def run(self, steps: Sequence[str]) -> LedgerEntry | None:
        """Does the steps, and adds the day to the ledger after the last one, or when it is refused."""
        works: dict[str, Callable[[], dict[str, Any]]] = {
            "check": self._check,
            "build": self._build,
            "embed": self._embed,
            "assign": self._assign,
            "refresh": self._refresh,
            "evaluate": self._evaluate,
            "publish": self._publish,
            "train": self._train,
        }
        for name in steps:
            self._results[name] = self.directory.step(name, works[name])
            if reasons := self._results[name].get("refused"):
                return self._add(outcome="refused", reasons=reasons, version=self._version())
        if len(steps) < len(STEPS):
            return None
        published, evaluated = self._results["publish"], self._results["evaluate"]
        return self._add(
            outcome="published" if published["published"] else "kept",
            reasons=published["reasons"],
            version=published["version"],
            dataset=self._results["build"] | self._results["embed"],
            trained=self._results["train"],
            **{name: evaluated[name] for name in ("candidate", "served", "difference", "slices")},
            **{name: evaluated[name] for name in ("inputs", "scores", "drift")},
        )

    def _add(self, **values: Any) -> LedgerEntry:
        facts = self._results["check"]["facts"]
        entry = LedgerEntry.model_validate(finite({"day": self._day, "facts": facts, **values}))
        return self._ledger.add(entry)

    def _version(self) -> int | None:
        worked = self._ledger.worked()
        return worked[-1].version if worked else None

    def _build_options(self) -> BuildOptions:
        before = Dataset(self._start.data).manifest.options
        span = Span.of(self._day)
        return dataclasses.replace(
            self._options.reading,
            split_by_time=(span.start, span.end),
            **{name: before[name] for name in _PAGE_OPTIONS},
        )

    def _check(self) -> dict[str, Any]:
        """Reads the logs; nothing is made."""
        options, bounds = self._build_options(), self._options.bounds
        try:
            checked = check_logs(self._logs, options, previous=self._start.data)
        except InputError as error:
            return {"facts": None, "refused": [str(error)]}
        before = Dataset(self._start.data)
        known = {"items": before.items()["item_id"], "users": before.users()["user_id"]}
        with about("logs"):
            facts = DayFacts.of_logs(checked, self._day, options, known)
        usual = [entry.facts for entry in self._ledger.worked() if entry.facts is not None][-bounds.recent_days :]
        usual = usual or [DayFacts.of_dataset(before.manifest)]
        wrong = [*whats_wrong(facts, usual, bounds, self._day), *checked.problems]
        return {"facts": facts.model_dump(), "refused": wrong}

    def _build(self) -> dict[str, Any]:
        """Builds the day on top of the dataset before."""
        output = self._at / "dataset"
        if not output.exists():
            try:
                build_dataset(self._logs, output, self._build_options(), previous=self._start.data)
            except InputError as error:
                return {"refused": [str(error)]}
        manifest, before = Dataset(output).manifest, Dataset(self._start.data).manifest
        return {
            "pages": manifest.splits[_TODAY].pages,
            "items": manifest.items.file.records,
            "new_items": manifest.items.file.records - before.items.file.records,
            "new_users": manifest.users.file.records - before.users.file.records,
            "rejected": {
                name.removeprefix("rejected."): count
                for name, count in manifest.counters.items()
                if name.startswith("rejected.")
            },
        }

    def _embed(self) -> dict[str, Any]:
        """Embeds the pictures that are new."""
        if self._start.embeddings is None:
            return {}
        output = self._at / "embeddings"
        before = Embeddings.load(self._start.embeddings)
        if not output.exists():
            embed(
                self._dataset,
                self._options.encoder,
                output,
                previous=before,
                dtype=before.metadata.dtype,
                precision=cast(Precision, before.metadata.precision),
            )
        pictures, copied = count_pictures(Embeddings.load(output), before)
        return {"pictures": pictures, "new_pictures": pictures - copied}

    def _assign(self) -> dict[str, Any]:
        """Assigns new items to the clusters that are there."""
        if self._start.clusters is None:
            return {}
        output = self._at / "clusters"
        if not output.exists():
            cluster(self._at / "embeddings", output, like=self._start.clusters)
        return {"mean_squared_distance": Clusters.load(output).metadata.mean_squared_distance}

    def _refresh(self) -> dict[str, Any]:
        """Gives the candidate, and the ranker that serves, the tables of today."""
        for name, run in ((CANDIDATE, self._start.ranker), (SERVED, self._start.served)):
            if run is not None and not (self._at / name).exists():
                refresh_ranker(run, self._dataset, self._at / name, pictures=self._pictures())
        return {}

    def _evaluate(self) -> dict[str, Any]:
        """Scores the pages of today with both, before anything learns on them."""
        rankers = {SERVED: self._at / SERVED} if self._start.served is not None else {}
        report = evaluate(
            self._dataset,
            {**rankers, CANDIDATE: self._at / CANDIDATE},
            split=_TODAY,
            output=self._at / "report",
            overwrite=True,
        )
        predictions = pq.read_table(self._at / "report" / "predictions" / f"{CANDIDATE}.parquet")
        before = self._ledger.worked()[-self._options.bounds.recent_days :]
        like = self._ledger.worked()[0].inputs if before else {}
        inputs = day_inputs(Dataset(self._at / "dataset"), _TODAY, predictions["item_id"], like)
        scores = day_scores(predictions["ctr"].to_numpy())
        seen = [{**entry.inputs, "scores": Histogram(**entry.scores["histogram"])} for entry in before]
        drift = drift_of({**inputs, "scores": Histogram(**scores["histogram"])}, seen)
        return {
            "candidate": measured(report, CANDIDATE),
            "served": measured(report, SERVED) if rankers else None,
            "difference": difference(report) if rankers else None,
            "slices": slice_differences(report, self._options.bounds) if rankers else [],
            "worse": whats_worse(report, self._options.bounds) if rankers else [],
            "inputs": {name: histogram.model_dump() for name, histogram in inputs.items()},
            "scores": scores,
            "drift": drift,
        }

    def _publish(self) -> dict[str, Any]:
        """Publishes the candidate through the gates, unless it is worse than what serves."""
        kept = {"published": False, "version": self._version()}
        if worse := self._results["evaluate"]["worse"]:
            return {**kept, "reasons": worse}
        run = RankerRun(self._at / CANDIDATE)
        with about("base_path"):
            number = _published_as(as_location(self._options.base_path), run)
        if number is None:
            try:
                number = publish(
                    run.path,
                    self._options.base_path,
                    data=self._dataset,
                    skew_pages=self._options.skew_pages,
                    report=self._at / "report",
                ).number
            except VersionError as error:
                return {**kept, "reasons": [str(error)]}
        return {"published": True, "reasons": [], "version": number}

    def _train(self) -> dict[str, Any]:
        """Learns on the pages of today: from the candidate, or from what serves if the candidate was refused."""
        start = CANDIDATE if self._results["publish"]["published"] or self._start.served is None else SERVED
        output = self._at / "ranker"
        if not output.exists():
            earlier = RankerRun(self._at / start)
            with about("training"):
                config = load_config(
                    TrainingConfig, str(earlier.file(CONFIG_FILE)), ["epochs=1", *self._options.training]
                )
            train_ranker(
                self._dataset,
                output,
                pictures=self._pictures(),
                image_feature=earlier.metadata.image_feature,
                warm_start=earlier.path,
                extend=True,
                config=config,
                seed=earlier.metadata.seed,
            )
        metadata = RankerRun(output).metadata
        return {"from": start, "gauc_of_latest_pages": metadata.validation["gauc_page_mean"]}

    @functools.cached_property
    def _dataset(self) -> Dataset:
        return Dataset(self._at / "dataset")

    def _pictures(self) -> PictureSources:
        needed = _picture_kinds(RankerRun(self._start.ranker))
        sources: list[Embeddings | Clusters] = []
        if "embeddings" in needed:
            sources.append(Embeddings.load(self._at / "embeddings"))
        if "clusters" in needed:
            sources.append(Clusters.load(self._at / "clusters"))
        return sources or None


def _start_of(state: StateDirectory, ledger: Ledger, options: DailyOptions) -> DayStart:
    """What a day begins with."""
    worked = ledger.worked()
    if not worked:
        return _first_start(options)
    at = state.day(worked[-1].day).path
    if not (at / "ranker").exists():
        raise InputError(f"`state`: {at} is gone, which the day after {worked[-1].day} begins with")
    served = CANDIDATE if worked[-1].outcome == "published" else SERVED
    return DayStart(
        data=str(at / "dataset"),
        embeddings=str(at / "embeddings") if (at / "embeddings").exists() else None,
        clusters=str(at / "clusters") if (at / "clusters").exists() else None,
        ranker=str(at / "ranker"),
        served=str(at / served) if (at / served).exists() else None,
    )


def _first_start(options: DailyOptions) -> DayStart:
    given = {name: _absolute(getattr(options, name)) for name in ("data", "embeddings", "clusters", "model")}
    with about("model"):
        needed = _picture_kinds(RankerRun(given["model"]))
    if "clusters" in needed:
        with about("clusters"):
            embeddings = Clusters.load(given["clusters"]).metadata.embeddings
        if embeddings.whitening is not None:
            raise InputError("`clusters` must be of what models.embed wrote. Received: clusters of whitened embeddings")
    return DayStart(
        data=given["data"],
        embeddings=given["embeddings"] if needed else None,
        clusters=given["clusters"] if "clusters" in needed else None,
        ranker=given["model"],
        served=None,
    )


def _absolute(path: Location | str) -> str:
    location = as_location(path)
    return str(location if is_remote(location) else location.resolve())


def _picture_kinds(run: RankerRun) -> set[str]:
    """What a ranker reads of pictures: `embeddings`, `clusters`."""
    reads = (PICTURE_FEATURES[name].reads for name in image_features_of(run.metadata.image_feature))
    return {kind for kind in reads if kind is not None}


def _published_as(base_path: Location, run: RankerRun) -> int | None:
    """The number of the version that was made of a run, if there is one."""
    metadata = run.file(METADATA_NAME).read_bytes()
    versions = stored_versions(base_path) if is_remote(base_path) else published_versions(base_path)
    for number in sorted(versions, reverse=True):
        made_of, whole = versions[number] / RANKER_METADATA_FILE, versions[number] / SAVED_MODEL_FILE
        with storage_errors(base_path):
            if whole.exists() and made_of.exists() and made_of.read_bytes() == metadata:
                return number
    return None
