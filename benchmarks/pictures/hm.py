"""What pictures add to the ranker on H&M, and how it compares with gradient boosting.

    python -m benchmarks.pictures.hm [--source DIR] [--work-dir DIR] [--set KEY=VALUE] [--quick]

H&M has purchases but no impressions: the unclicked candidates are sampled. Of its 602 days the encoder learns on the
first 40 %, the rankers on the next 40 %, and all are measured on the rest, the test pages of
`benchmarks.encoder.quality`. These are sampled five times: a page's AUC is the mean over its draws, which differ in the
unclicked candidates. Each seed has an encoder, its clusters and rankers: made by `models.pretrain`, `models.embed`,
`models.cluster`, `models.train_ctr` and `models.evaluate` as a user would run them. The rankers have no IDs and no
titles: on 2,700 pages these are learned by heart; nor embeddings of clusters, for the same reason. Each image feature
has rankers that read category and six catalogue attributes, and ones of a shop that knows the category alone; those
called `whitened` read pictures that `models.whiten` has whitened. Beside them:

- `boosting`: gradient boosting on what they read besides pictures, and a little more (the share of the same item, all
  columns of the user where they read the age): of each candidate its category and six catalogue attributes, the share
  of the clicks and of the payments with the same category, the same attribute and the same item, the lengths of these
  histories, the counts of the days before, and the user's columns;
- `boosting, pictures`: also on the mean of the 1, 5 and 50 largest cosines to each history and its share of the
  candidate's cluster ID.

Boosting learns on the pages of the rankers; its trees and their leaves are those that are best on the latest tenth, on
which the rankers stop. GAUC is the mean AUC of pages; `unseen` counts only the candidates that are on no training page.
Intervals are 95 %, by a bootstrap over users with seeds averaged; those of differences are paired. `--quick` takes one
seed and one epoch each.
"""

import argparse
import hashlib
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Window
from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module, set_options
from benchmarks.encoder.quality import attribute_codes, attribute_shares
from benchmarks.hm.runs import TEST, open_dataset, train_runs
from benchmarks.hm.similarity_pages import Estimate, SimilarityPages, user_bootstrap
from models.clustering.clusters import Clusters
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import PADDING, PageLengths, page_batches
from models.features.spec import STATISTICS
from models.metrics.auc import group_auc
from models.pretraining.monitor.similarity_gauc import similarity_scores
from models.ranker.config import TrainingConfig

SPLIT_TIMES = "2019-05-16,2020-01-11"
TRAIN = "train"
HISTORY_STEPS = 200  # newest clicks and payments that boosting reads
MOST_SIMILAR = (1, 5, 50)
TREES, LEAVES = (50, 100, 200, 400), (4, 8, 16)  # the grid of boosting
VALIDATION_SHARE = 0.1
PARTS = ("all", "unseen")
REFERENCES = ("none", "none, category", "boosting")
ATTRIBUTES = (
    "cat_colour",
    "cat_garment_group",
    "cat_graphical_appearance",
    "cat_index",
    "cat_product_group",
    "cat_section",
)
CONFIG = (
    "ranker.features.user={stat_age: {type: number}}",
    "ranker.tasks={ctr: 1.0, pairwise: 1.0}",
    "ranker.members=4",
    "ranker.embed_clusters=false",
    "batch_size=32",
    "learning_rate=0.001",
    "monitor=auc",
)
"""Of all rankers, chosen by the GAUC of the latest 30 % of the training pages. The best epoch is that of the best AUC,
since the GAUC of the 297 validation pages jumps between epochs."""


def item_features(*columns: str) -> str:
    """The configuration of rankers that read these columns of items, and compare them with those of history steps."""
    return f"ranker.features.item={{{', '.join(f'{column}: {{type: category, match: true}}' for column in columns)}}}"


class Variant(NamedTuple):
    """What rankers of one name have in common.

    Attributes:
        feature: how pictures enter.
        items: the configuration of what they read of items.
        whitened: whether they read whitened embeddings and their clusters.
    """

    feature: str
    items: str
    whitened: bool = False


FEATURES = ("none", "vector", "simscore", "cluster_id")
_CATALOGUE, _CATEGORY = item_features("category", *ATTRIBUTES), item_features("category")
RANKERS = {feature: Variant(feature, _CATALOGUE) for feature in FEATURES}
RANKERS |= {f"{feature}, whitened": Variant(feature, _CATALOGUE, True) for feature in ("simscore", "cluster_id")}
RANKERS |= {f"{feature}, category": Variant(feature, _CATEGORY) for feature in FEATURES}
WHITENED_DIM = 64
"""Chosen on the training pages, by the GAUC of cosines to whitened centers alone."""

DRAWS = 5
"""How often the unclicked candidates of the test pages are sampled."""

Aucs = dict[str, np.ndarray]
"""By part: the AUC of each page that has clicked and unclicked candidates in it, the mean over draws."""


class Pages(NamedTuple):
    """Pages of one split.

    Attributes:
        timestamp, user: `(pages,)`.
        item: rows `(pages, candidates)`, -1 = padding.
        clicked: bool `(pages, candidates)`.
        histories: item rows `(pages, HISTORY_STEPS)` of clicks and of payments, -1 = padding.
        numbers: `STATISTICS` of the candidates, `(pages, candidates, n)`.
    """

    timestamp: np.ndarray
    user: np.ndarray
    item: np.ndarray
    clicked: np.ndarray
    histories: tuple[np.ndarray, np.ndarray]
    numbers: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """Which candidates are none of the padding."""
        return self.item != PADDING


class Measurement:
    """Turns scores of the test pages' candidates into AUCs of the pages.

    Args:
        draws: the test pages, as often as they were sampled.
        unseen: bool by candidate, of each draw: whether it is on no training page.

    Attributes:
        user: by part, the user of each page that an AUC is of.
    """

    def __init__(self, draws: Sequence[Pages], unseen: Sequence[np.ndarray]) -> None:
        identity = np.concatenate([np.stack([pages.user, pages.timestamp], axis=1) for pages in draws])
        identity, page = np.unique(identity, axis=0, return_inverse=True)
        pages_before = np.cumsum([0, *(len(pages.user) for pages in draws)])
        self._of_candidates = [
            (page[before + np.nonzero(pages.valid)[0]], pages.clicked[pages.valid])
            for before, pages in zip(pages_before, draws, strict=False)
        ]
        self._chosen = {"all": [np.ones(len(each), bool) for each in unseen], "unseen": unseen}
        self._pages = len(identity)
        counts = self._means([np.zeros(len(each)) for each in unseen])
        self.user = {part: identity[np.isfinite(mean), 0] for part, mean in counts.items()}

    def aucs(self, scores: Sequence[np.ndarray]) -> Aucs:
        """AUCs of scores, one for each candidate of each draw."""
        return {part: mean[np.isfinite(mean)] for part, mean in self._means(scores).items()}

    def _means(self, scores: Sequence[np.ndarray]) -> Aucs:
        means = {}
        for part, of_draws in self._chosen.items():
            total, draws = np.zeros((2, self._pages))
            for (page, clicked), chosen, score in zip(self._of_candidates, of_draws, scores, strict=True):
                measured = group_auc(score[chosen], clicked[chosen], page[chosen])
                total[measured.group[measured.valid]] += measured.auc[measured.valid]
                draws[measured.group[measured.valid]] += 1
            with np.errstate(invalid="ignore"):  # no draw of some pages has both kinds of candidates
                means[part] = total / draws
        return means


def read_pages(dataset: Dataset, split: str, window: Window | None = None) -> Pages:
    """Reads the pages of a split, or of a time in it, in the order of its files."""
    steps = {"click": HISTORY_STEPS, "pay": HISTORY_STEPS, "cart": 0}
    lengths = PageLengths(candidates=dataset.manifest.max_candidates, **steps)
    batches = list(page_batches(dataset, split, lengths, batch_size=1024, window=window).as_numpy_iterator())
    read = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return Pages(
        read["timestamp"],
        read["user"],
        read["item"],
        read["clicked"] == 1,
        (read["click_item"], read["pay_item"]),
        np.stack([read[name] for name in STATISTICS], axis=2).astype(np.float32),
    )


def boosting_features(
    pages: Pages, codes: np.ndarray, users: np.ndarray, visual: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """What boosting reads of each candidate, in the order of the pages: `(n, features)`, the codes first.

    Args:
        pages: of one split.
        codes: catalogue attributes `(items, attributes)`.
        users: the user's columns as numbers, `(users, columns)`.
        visual: embeddings and cluster IDs by item row, or None.
    """
    item_rows = np.arange(len(codes))
    compared = [*codes.T, item_rows] + ([visual[1]] if visual is not None else [])
    wide = [codes[pages.item], pages.numbers]
    with np.errstate(invalid="ignore"):  # of an empty history there are no shares
        for steps in pages.histories:
            similarity = SimilarityPages(pages.user, pages.item, pages.clicked, steps)
            wide.append(attribute_shares(np.stack(compared, axis=1), similarity))
            if visual is not None:
                for count in MOST_SIMILAR:
                    cosines = similarity_scores(visual[0], pages.item, steps, most_similar=count)
                    wide.append(cosines[:, :, None])
    lengths = np.stack([(steps != PADDING).sum(axis=1) for steps in pages.histories], axis=1)
    of_page = np.concatenate([lengths, users[pages.user]], axis=1)[:, None]
    wide.append(np.broadcast_to(of_page, (*pages.item.shape, of_page.shape[2])))
    return np.concatenate(wide, axis=2)[pages.valid]


def boosting_scores(
    training: Pages, features: np.ndarray, test_features: Sequence[np.ndarray], codes: int
) -> list[np.ndarray]:
    """Scores of the test candidates of each draw by gradient boosting, its size chosen on the latest training pages.

    Args:
        training: the pages to learn on.
        features: of `boosting_features`.
        test_features: the same of each draw.
        codes: number of leading columns that are categories.
    """
    page, clicked = np.nonzero(training.valid)[0], training.clicked[training.valid]
    later = (training.timestamp > np.quantile(training.timestamp, 1 - VALIDATION_SHARE))[page]

    def fit(trees: int, leaves: int, rows: np.ndarray) -> HistGradientBoostingClassifier:
        model = HistGradientBoostingClassifier(
            max_iter=trees,
            learning_rate=0.05,
            max_leaf_nodes=leaves,
            min_samples_leaf=100,
            categorical_features=range(codes),
            early_stopping=False,
            random_state=0,
        )
        return model.fit(features[rows], clicked[rows])

    with threadpool_limits(1):  # more threads are slower on rows this few
        gaucs = {}
        for leaves in LEAVES:
            stages = fit(max(TREES), leaves, ~later).staged_predict_proba(features[later])
            for trees, probabilities in enumerate(stages, 1):
                if trees in TREES:
                    gaucs[trees, leaves] = group_auc(probabilities[:, 1], clicked[later], page[later]).mean()
        best = max(gaucs, key=gaucs.__getitem__)
        print(f"boosting of {best[0]} trees of {best[1]} leaves: validation GAUC {gaucs[best]:.4f}", flush=True)
        model = fit(*best, np.ones(len(page), bool))
        return [model.predict_proba(of_draw)[:, 1] for of_draw in test_features]


def user_columns(users: pa.Table) -> np.ndarray:
    """Numbers as they are, missing ones NaN, and strings as codes: `(users, columns)`."""
    columns = []
    for name in users.column_names:
        column = users[name].combine_chunks()
        if name.startswith("cat_"):
            column = pc.fill_null(column, "").dictionary_encode().indices
        if name.startswith(("cat_", "stat_")):
            columns.append(column.to_numpy(zero_copy_only=False).astype(np.float64))
    return np.stack(columns, axis=1)


def whiten(dataset: Dataset, run: Path) -> Path:
    """Whitens the embeddings of a run, unless that is done; returns the directory that holds the result."""
    path = run.with_name(f"{run.name}-whitened")
    if not (path / "embeddings").exists():
        path.mkdir(exist_ok=True)
        written = ("--embeddings", run / "embeddings", "--data", dataset.path, "--output", path / "embeddings")
        run_module("models.whiten", *written, "--dim", str(WHITENED_DIM), "--l2", log=path / "whiten.log")
    return path


def cluster(path: Path) -> None:
    """Clusters the embeddings of a directory, unless that is done."""
    if not (path / "clusters").exists():
        written = ("--embeddings", path / "embeddings", "--output", path / "clusters")
        run_module("models.cluster", *written, log=path / "cluster.log")


def train_ranker(dataset: Dataset, work_dir: Path, feature: str, seed: int, inputs: Path, overrides: list[str]) -> Path:
    """Trains a ranker, unless the work directory has it; returns its run directory.

    Args:
        dataset: to learn on.
        work_dir: keeps the runs.
        feature: how pictures enter.
        seed: of the ranker.
        inputs: holds `embeddings` and `clusters`.
        overrides: `KEY=VALUE` of the configuration.
    """
    text = load_config(TrainingConfig, None, overrides).to_yaml() + dataset.manifest.digest() + inputs.name
    path = work_dir / "rankers" / f"{feature}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        print(f"training {path.name}\n", end="", flush=True)  # in one piece: others print beside it
        options = set_options(overrides)
        run_module(
            "models.train_ctr",
            *("--data", dataset.path, "--output", path, "--image-feature", feature, "--seed", str(seed)),
            *("--embeddings", inputs / "embeddings", "--clusters", inputs / "clusters", *options),
            log=path.with_suffix(".log"),
        )
    return path


def evaluate(dataset: Dataset, work_dir: Path, runs: Mapping[str, Sequence[Path]]) -> dict[str, pa.Table]:
    """Scores the test pages of a draw with the rankers of all seeds: the predictions by name of the run."""
    report = work_dir / "report"
    models = [f"{name}={run}" for name, of_seeds in runs.items() for run in of_seeds]
    arguments = ("--data", dataset.path, "--model", *models, "--split", TEST, "--output", report, "--overwrite")
    run_module("models.evaluate", *arguments, log=work_dir / "evaluate.log")
    return {path.stem: pq.read_table(path) for path in (report / "predictions").iterdir()}


def open_draws(source: Path, work_dir: Path) -> tuple[list[Dataset], list[Path]]:
    """The datasets that differ in what is sampled of the test pages, the one to learn on first, and where they lie."""
    directories = [work_dir, *(work_dir / "draws" / str(draw) for draw in range(1, DRAWS))]
    return [open_dataset(source, path, SPLIT_TIMES, draw) for draw, path in enumerate(directories)], directories


def measure_rankers(
    draws: Sequence[Dataset],
    tests: Sequence[Pages],
    directories: Sequence[Path],
    runs: Mapping[str, Sequence[Path]],
    jobs: int,
) -> tuple[dict[str, list[Aucs]], Measurement]:
    """Scores the test pages of all draws with all rankers.

    Args:
        draws, tests, directories: the datasets, their test pages, and where reports go.
        runs: by name, the rankers of each seed.
        jobs: evaluations at a time.

    Returns:
        By name, the AUCs of each seed; and what measured them.
    """
    print(f"measuring on {DRAWS} draws of the test pages", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        predictions = list(pool.map(lambda draw, path: evaluate(draw, path, runs), draws, directories))
    unseen = [next(iter(of_draw.values()))["unseen_item"].to_numpy() for of_draw in predictions]
    measurement = Measurement(tests, unseen)
    item_ids = draws[0].items()["item_id"].combine_chunks()
    candidates = [item_ids.take(pa.array(test.item[test.valid])) for test in tests]
    rows: dict[str, list[Aucs]] = {}
    for name, paths in runs.items():
        for path in paths:
            tables = [of_draw[path.name] for of_draw in predictions]
            for table, of_draw in zip(tables, candidates, strict=True):
                if not table["item_id"].combine_chunks().equals(of_draw):
                    raise InputError(f"the predictions of {path} are of other candidates, or in another order")
            rows.setdefault(name, []).append(measurement.aucs([table["ctr"].to_numpy() for table in tables]))
    return rows, measurement


def study(args: argparse.Namespace) -> dict:
    """Measures everything, prints the tables and returns the figures."""
    if args.quick:
        args.seeds = 1
        args.set, args.encoder_set = [*args.set, "epochs=1"], [*args.encoder_set, "epochs=1"]
    draws, directories = open_draws(args.source, args.work_dir)
    dataset = draws[0]
    print(f"notice: {dataset.manifest.notice}", flush=True)
    training, tests = read_pages(dataset, TRAIN), [read_pages(draw, TEST) for draw in draws]
    visual, inputs = [], []
    variants = {"courier": args.encoder_set}
    for _, seed, run in train_runs(dataset, args.work_dir, args.encoder_config, variants, args.seeds, args.jobs):
        whitened = whiten(dataset, run.path)
        for path in (run.path, whitened):
            cluster(path)
        inputs.append((seed, run.path, whitened))
        visual.append((run.embeddings, Clusters.load(run.path / "clusters").ids))

    def train(name: str, seed: int, raw: Path, whitened: Path) -> Path:
        variant = RANKERS[name]
        path = whitened if variant.whitened else raw
        return train_ranker(dataset, args.work_dir, variant.feature, seed, path, [*CONFIG, variant.items, *args.set])

    with ThreadPoolExecutor(args.jobs) as pool:
        started = {name: [pool.submit(train, name, *each) for each in inputs] for name in RANKERS}
        runs = {name: [run.result() for run in of_seeds] for name, of_seeds in started.items()}
    rows, measurement = measure_rankers(draws, tests, directories, runs, args.jobs)

    codes, users = attribute_codes(dataset.items()), user_columns(dataset.users())
    for name, inputs in (("boosting", [None]), ("boosting, pictures", visual)):
        for pictures in inputs:
            known, *asked = (boosting_features(pages, codes, users, pictures) for pages in (training, *tests))
            rows.setdefault(name, []).append(measurement.aucs(boosting_scores(training, known, asked, codes.shape[1])))

    result = {
        "notice": dataset.manifest.notice,
        "seeds": args.seeds,
        "pages": {part: len(user) for part, user in measurement.user.items()},
        "training_pages": len(training.user),
        **figures_of(rows, measurement, REFERENCES),
    }
    print(dataset.manifest.notice)
    return result


def figures_of(rows: dict[str, list[Aucs]], measurement: Measurement, references: Sequence[str]) -> dict:
    """Prints the tables, with differences from some of the rows, and returns what they say."""
    mean = {
        part: {name: np.mean([aucs[part] for aucs in seeds], axis=0) for name, seeds in rows.items()} for part in PARTS
    }
    figures = {name: {} for name in rows}
    for part in PARTS:
        user = measurement.user[part]
        print(f"\n{part}: {len(user)} pages of {len(np.unique(user))} users\n{'':30s}{'GAUC':26s}over seeds")
        for name, seeds in rows.items():
            estimate = user_bootstrap(mean[part][name], user)
            of_seed = [aucs[part].mean() for aucs in seeds]
            spread = f"+- {statistics.stdev(of_seed):.4f}" if len(of_seed) > 1 else ""
            print(f"{name:30s}{estimate!s:26s}{spread}")
            figures[name][part] = {"gauc": _rounded(estimate), "seeds": [round(float(value), 4) for value in of_seed]}
        print(f"{'less':30s}" + "".join(f"{reference:28s}" for reference in references))
        for name in rows:
            cells = []
            for reference in references:
                gain = user_bootstrap(mean[part][name] - mean[part][reference], user)
                cells.append("" if name == reference else f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
                if name != reference:
                    figures[name][part][f"gain_over_{reference}"] = _rounded(gain)
            print(f"{name:30s}" + "".join(f"{cell:28s}" for cell in cells))
        order = sorted(rows.keys() & set(FEATURES), key=lambda name: mean[part][name].mean())
        print(f"order: {' < '.join(order)}")
    return figures


def _rounded(estimate: Estimate) -> list[float]:
    return [round(value, 4) for value in estimate]


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one seed, one epoch")
    add = parser.add_argument
    add("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M competition's files")
    add("--work-dir", type=Path, default=WORK / "ranker_hm", help="what is there is reused")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to models.train_ctr")
    add("--encoder-config", default="courier_cpu", help="passed on to models.pretrain")
    add("--encoder-set", action="append", default=[], metavar="KEY=VALUE", help="passed on to models.pretrain")
    add("--seeds", type=int, default=3)
    add("--jobs", type=int, default=1, help="trainings at a time")
    run_benchmark("pictures_hm", parser, study)


if __name__ == "__main__":
    main()
