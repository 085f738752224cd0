"""Fourteen simulated days of `export.daily` while a server answers, with bad days, beside training from the beginning.

It may be killed and goes on; what it has made is below artifacts/benchmarks/daily. The ranker is a small one: what a
day takes on so little data is mostly the tracing of graphs.
"""

import argparse
import contextlib
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from beam_pipelines import BuildOptions, build_dataset
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Window
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.text_file import read_json, write_json
from beam_pipelines.shell.command import CommandError
from benchmarks.base import WORK, benchmark_parser, run_benchmark
from benchmarks.daily.shop_days import BAD_DAYS, BASE_DAYS, DAYS, Tables, day, simulated_shop, start_of, write_logs
from export.client.page import Page
from export.client.predict_client import RankerError
from export.client.ranker_client import RankerClient
from export.daily import STEPS
from export.daily.__main__ import main as work_on_day
from export.daily.judgement import CANDIDATE
from export.daily.ledger import LEDGER_FILE, Ledger
from export.daily.state import StateDirectory
from export.gates.loopback_server import loopback_server
from export.version.base_path import published_versions
from models.clustering.cluster import cluster
from models.clustering.clusters import Clusters
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import Pages
from models.embeddings.embed import embed
from models.evaluation.evaluate import evaluate
from models.metrics.auc import group_auc
from models.metrics.bootstrap import bootstrap_counts, interval, resampled_sums
from models.pretraining.config import PretrainConfig
from models.pretraining.pretrain import pretrain
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths, TrainingConfig
from models.ranker.refresh import refresh_ranker
from models.ranker.train import train_ranker

_BAD_ON = dict(zip((1, 2, 4, 5, 7, 8), BAD_DAYS, strict=True))
"""On these days, the logs are first bad, and mended then."""
_RANKER = RankerConfig(
    lengths=RankerLengths(cart=0), attention=AttentionConfig(histories="none", recent_steps=30), mlp_units=(64, 32)
)
_PAUSE = 0.05  # seconds between requests
_MEASURED = 2
"""Last days, on which the ranker that learned day by day is compared with others."""


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Works through the days."""
    work = WORK / ("daily_quick" if options.quick else "daily")
    work.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    days = 4 if options.quick else DAYS
    size = (
        {"users": 200, "pages": 4000, "photos": 300}
        if options.quick
        else {"users": 900, "pages": 16_000, "photos": 1200}
    )
    tables = simulated_shop(**size)
    _make_base(tables, work, epochs=1 if options.quick else 7)
    refusals = _work_through(tables, work, days, ends)
    entries = Ledger(work / "state").worked()
    figures: dict[str, Any] = {
        **size,
        "days": days,
        "outcomes": dict(Counter(entry.outcome for entry in entries)),
        "versions": len(published_versions(work / "serving")),
        "requests": read_json(work / "requests.json"),
        "refusals": refusals,
        "by_day": [
            {
                "day": entry.day.isoformat(),
                "outcome": entry.outcome,
                "version": entry.version,
                "pages": entry.facts.pages if entry.facts else None,
                "new_items": entry.dataset["new_items"],
                "candidate": entry.candidate["gauc_page_mean"] if entry.candidate else None,
                "served": entry.served["gauc_page_mean"] if entry.served else None,
                "difference": entry.difference["gauc_page_mean"] if entry.difference else None,
                "largest_drift": max(((v, k) for k, v in entry.drift.items() if k != "scores"), default=None),
                "score_drift": entry.drift.get("scores"),
            }
            for entry in entries
        ],
        "seconds_by_step": _seconds(work, days),
    }
    return figures | _beside_full_training(tables, work, days, epochs=1 if options.quick else 7)


def _make_base(tables: Tables, work: Path, epochs: int) -> None:
    """What the first day begins with."""
    logs = write_logs(tables, work / "logs_base", day(0))
    if not (work / "dataset").exists():
        split = BuildOptions(split_by_time=(start_of(day(-BASE_DAYS // 2)), start_of(day(-1))))
        build_dataset(logs, work / "dataset", split)
    data = Dataset(work / "dataset")
    if not (work / "encoder").exists():
        pretrain(data, work / "encoder", config=load_config(PretrainConfig, "courier_cpu", ["epochs=4"]))
    if not (work / "embeddings").exists():
        embed(data, work / "encoder", work / "embeddings")
    if not (work / "clusters").exists():
        cluster(work / "embeddings", work / "clusters")
    if not (work / "ranker").exists():
        config = TrainingConfig(epochs=epochs, ranker=_RANKER)
        train_ranker(data, work / "ranker", pictures=Clusters.load(work / "clusters"), config=config)


def _work_through(tables: Tables, work: Path, days: int, ends: float) -> dict[str, str]:
    """Does the days that are not done, with a server and a client beside them; returns what bad days printed."""
    refusals: dict[str, str] = read_json(work / "refusals.json") if (work / "refusals.json").exists() else {}
    with contextlib.ExitStack() as stack:
        asks = False
        for number in range(days):
            done = Ledger(work / "state").of(day(number)) if (work / "state" / LEDGER_FILE).exists() else None
            if done is not None and done.outcome != "refused":
                continue
            if time.monotonic() > ends:
                raise InputError(f"{number} of {days} days are done; the same command goes on")
            if not asks and published_versions(work / "serving"):
                stack.enter_context(_asking(work))
                asks = True
            kind = _BAD_ON.get(number)
            if kind is not None and kind not in refusals:
                refusals[kind] = _refusal(tables, work, number, BAD_DAYS[kind])
                with whole_file(work / "refusals.json") as path:
                    write_json(path, refusals)
            shutil.rmtree(work / "logs", ignore_errors=True)
            logs = write_logs(tables, work / "logs", day(number + 1))
            print(work_on_day(_words(work, logs, number)), flush=True)
    return refusals


def _refusal(tables: Tables, work: Path, number: int, damage: Callable[[Path, int], None]) -> str:
    """What the command prints of a day whose logs are bad."""
    shutil.rmtree(work / "logs", ignore_errors=True)
    logs = write_logs(tables, work / "logs", day(number + 1))
    damage(logs, start_of(day(number)))
    try:
        return f"not refused: {work_on_day(_words(work, logs, number))}"
    except CommandError as error:
        return str(error)


def _words(work: Path, logs: Path, number: int) -> list[str]:
    words: list[object] = ["--logs", logs, "--day", day(number), "--state", work / "state"]
    words += ["--base-path", work / "serving", "--data", work / "dataset", "--encoder", work / "encoder"]
    words += ["--embeddings", work / "embeddings", "--clusters", work / "clusters", "--model", work / "ranker"]
    return [str(word) for word in [*words, "--skew-pages", 200, "--keep-days", DAYS + 1]]


@contextlib.contextmanager
def _asking(work: Path) -> Iterator[None]:
    """Asks a server that follows the versions for a page, again and again, while the block runs; counts its answers."""
    path, ended = work / "requests.json", threading.Event()
    counts: dict[str, Any] = read_json(path) if path.exists() else {"asked": 0, "failed": 0, "by_version": {}}
    page = Page(user_id="u00001", item_ids=[f"{number:06d}" for number in range(0, 120, 12)])

    def ask(client: RankerClient) -> None:
        told = 0.0
        while not ended.wait(_PAUSE):
            counts["asked"] += 1
            try:
                version = str(client.ranking(page).version)
                counts["by_version"][version] = counts["by_version"].get(version, 0) + 1
            except (RankerError, InputError):
                counts["failed"] += 1
            if time.monotonic() - told > 1:
                told = time.monotonic()
                with whole_file(path) as scratch:
                    write_json(scratch, counts)

    with loopback_server(work / "serving") as server, RankerClient(server.listening.grpc, timeout=60.0) as client:
        thread = threading.Thread(target=ask, args=(client,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _seconds(work: Path, days: int) -> dict[str, float]:
    """The median over days of what each step took."""
    state = StateDirectory(work / "state")
    records = {step: [state.day(day(number)).record(step) for number in range(days)] for step in STEPS}
    return {step: float(np.median([each["seconds"] for each in found if each])) for step, found in records.items()}


def _beside_full_training(tables: Tables, work: Path, days: int, epochs: int) -> dict[str, Any]:
    """The ranker that learned day by day, the first one, and one trained from the beginning, on the last days' pages.

    None of them has learned on these days.
    """
    last = work / "state" / "days" / day(days - 1).isoformat()
    learned_until = day(days - _MEASURED)
    final = work / "final"
    if not (final / "dataset").exists():
        split = BuildOptions(split_by_time=(start_of(day(-BASE_DAYS // 2)), start_of(learned_until)))
        logs = write_logs(tables, work / "logs_final", day(days))
        build_dataset(logs, final / "dataset", split, previous=last / "dataset")
    data = Dataset(final / "dataset")
    if not (final / "clusters").exists():
        embed(data, work / "encoder", final / "embeddings", previous=last / "embeddings", overwrite=True)
        cluster(final / "embeddings", final / "clusters", like=work / "clusters")
    clusters = Clusters.load(final / "clusters")
    if not (final / "full").exists():
        start = time.monotonic()
        train_ranker(data, final / "full", pictures=clusters, config=TrainingConfig(epochs=epochs, ranker=_RANKER))
        write_json(final / "full_seconds.json", {"seconds": time.monotonic() - start})
    judged = Ledger(work / "state").of(learned_until)
    serves = "candidate" if judged is not None and judged.outcome == "published" else "served"
    daily_run = work / "state" / "days" / learned_until.isoformat() / serves
    for name, run in (("day by day", daily_run), ("first", work / "ranker")):
        if not (final / name).exists():
            refresh_ranker(run, data, final / name, pictures=clusters)
    report = evaluate(data, {name: final / name for name in ("full", "day by day", "first")}, split="test")
    measured = {name: each["all"] for name, each in report["systems"].items()}
    kept = {}
    for name in ("day by day", "first"):
        kept[name] = measured[name]["differences"]["gauc_page_mean"]
    return {
        "pages_measured": report["pages"],
        "gauc": {name: each["gauc_page_mean"] for name, each in measured.items()},
        "gauc_intervals": {name: each["intervals"]["gauc_page_mean"] for name, each in measured.items()},
        "log_loss": {name: each["log_loss"] for name, each in measured.items()},
        "more_than_first": _more_than_first(data, work, days),
        "less_full": kept,
        "full_seconds": read_json(final / "full_seconds.json")["seconds"],
        "full_train_pages": data.manifest.splits["train"].pages,
    }


def _more_than_first(data: Dataset, work: Path, days: int) -> list[dict[str, Any]]:
    """What learning day by day adds to the first ranker, on each day's pages before they are learned on.

    Of all days after the first, and of the later half of them: far more pages than the last days have, and so narrower
    intervals.
    """
    report = work / "final" / "report_of_first"
    window = Window(first=start_of(day(1)), last=start_of(day(days - _MEASURED)) - 1)
    if not report.exists():
        evaluate(Pages(data, "train", window), {"first": work / "final" / "first"}, output=report)
    first = _page_aucs(report, "first")
    by_day = []
    for number in range(1, days - _MEASURED):
        judged = _page_aucs(work / "state" / "days" / day(number).isoformat() / "report", CANDIDATE)
        both = sorted(judged.keys() & first.keys())
        by_day.append([(user, judged[page, user] - first[page, user]) for page, user in both])
    found = []
    for begin in (0, len(by_day) // 2):
        users, gains = zip(*(pair for each in by_day[begin:] for pair in each), strict=True)
        user = np.unique(users, return_inverse=True)[1]
        sums = resampled_sums(np.array([gains, np.ones(len(gains))]), bootstrap_counts(int(user.max()) + 1), user)
        means = sums[:1] / sums[1]
        low, high = interval(means[:, 1:])
        of = {"difference": float(means[0, 0]), "low": float(low[0]), "high": float(high[0])}
        found.append({"days": len(by_day) - begin, "pages": len(gains), **of})
    return found


def _page_aucs(report: Path, name: str) -> dict[tuple[str, str], float]:
    """AUC by page ID and user ID, of those that have one."""
    rows = pq.read_table(report / "predictions" / f"{name}.parquet")
    pages, page = np.unique(rows["page_id"].to_numpy(), return_inverse=True)
    user = rows["user_id"].to_numpy()[np.unique(page, return_index=True)[1]]
    auc = group_auc(rows["ctr"].to_numpy(), rows["clicked"].to_numpy(), page).auc
    return {(pages[n], user[n]): float(auc[n]) for n in np.flatnonzero(~np.isnan(auc))}


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "4 days of a smaller shop")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no day later; the same command goes on")
    run_benchmark("daily", parser, study)
