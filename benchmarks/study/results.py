"""The result files of the study, and the paired differences that its tables and figures tell.

Differences are paired over the same pages with seeds averaged; intervals are 95 %, by a bootstrap over users.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beam_pipelines.format.text_file import read_json
from benchmarks.study.plan import AS_PUBLISHED, FORMS, METHODS, SEEDS, UNTRAINED, Encoder

DRAWS = 4000
NAMES = {
    "courier": "COURIER",
    "supervised": "Supervised",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "moco_v2": "MoCo v2",
    "swav": "SwAV",
    "clip": "CLIP",
    "maskclip": "MaskCLIP",
    "m6_moe": "M6 (sparse experts)",
    UNTRAINED: "untrained",
    AS_PUBLISHED: "as published",
}
COMMON_CATEGORIES = 12


class Difference(NamedTuple):
    """A paired difference, its 95 % interval, and the share of samples on the other side of zero, doubled."""

    mean: float
    low: float
    high: float
    p: float

    def text(self, holds: bool = False) -> str:
        """With a star where it holds after the correction."""
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]{' *' if holds else ''}"


class Results:
    """The files of the study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages = read_json(folder / "hm/pages.json")
        self._drawn: dict[int, np.ndarray] = {}

    def read(self, path: str, seeds: Sequence[int] = range(SEEDS)) -> list[dict[str, Any]]:
        """The results of a cell's seeds that are there."""
        files = [self.folder / f"{path}-{seed}.json" for seed in seeds]
        return [read_json(file) for file in files if file.exists()]

    def seeds(self, path: str) -> list[int]:
        """The seeds of a cell that are there."""
        return [seed for seed in range(SEEDS) if (self.folder / f"{path}-{seed}.json").exists()]

    def form(self, encoder: Encoder) -> str | None:
        """The form of its embeddings that tuning has chosen, on H&M."""
        if encoder.method not in METHODS:
            files = [self.folder / f"hm/encoders/{encoder.name}-0.json"]
        else:
            files = sorted((self.folder / "hm/tuning").glob(f"{encoder.method}-{encoder.start}-*.json"))
        read = [read_json(file)["validation"] for file in files if file.exists()]
        best = [(values[form], form) for values in read for form in FORMS]
        return max(best)[1] if best else None

    def similarity(self, encoder: Encoder, seeds: Sequence[int] = range(SEEDS)) -> np.ndarray | None:
        """AUC of SimScore on each test page, seeds averaged."""
        read, form = self.read(f"hm/encoders/{encoder.name}", seeds), self.form(encoder)
        return np.mean([seed["test"][form] for seed in read], axis=0) if read else None

    def ranker(self, name: str, part: str, seeds: Sequence[int] = range(SEEDS)) -> np.ndarray | None:
        """AUC of each test page, seeds averaged."""
        read = self.read(f"hm/rankers/{name}", seeds)
        return np.mean([seed["pages"][part] for seed in read], axis=0) if read else None

    def auc(self, name: str) -> np.ndarray | None:
        """By user the summed placements of clicked and of unclicked candidates, seeds averaged."""
        seeds = self.read(f"hm/rankers/{name}")
        return np.mean([seed["placements"] for seed in seeds], axis=0) if seeds else None

    def difference(self, values: np.ndarray, user: Sequence[int]) -> Difference:
        """Mean over pages of paired differences."""
        _, index = np.unique(user, return_inverse=True)
        totals, counts = np.bincount(index, values), np.bincount(index)
        drawn = self._users(len(counts))
        return _difference(float(values.mean()), drawn @ totals / (drawn @ counts))

    def auc_difference(self, one: np.ndarray, other: np.ndarray, candidates: Sequence[Sequence[int]]) -> Difference:
        """Of AUC over all candidates; see `models.evaluation.comparison.metric_samples`."""
        counts = np.array(candidates, float)
        drawn = self._users(counts.shape[1])

        def parts(placements: np.ndarray) -> tuple[float, np.ndarray]:
            auc = placements[0].sum() / counts[0].sum()
            return auc, sum(drawn @ placements[side] / (drawn @ counts[side]) for side in (0, 1)) - auc

        (a, of_a), (b, of_b) = parts(one), parts(other)
        return _difference(a - b, of_a - of_b)

    def _users(self, users: int) -> np.ndarray:
        if users not in self._drawn:
            rng = np.random.default_rng(0)
            self._drawn[users] = rng.multinomial(users, np.full(users, 1 / users), DRAWS).astype(np.float64)
        return self._drawn[users]


def _difference(mean: float, samples: np.ndarray) -> Difference:
    low, high = np.quantile(samples, (0.025, 0.975))
    beyond = min((samples <= 0).mean(), (samples >= 0).mean())
    return Difference(mean, float(low), float(high), min(1.0, 2 * max(float(beyond), 1 / DRAWS)))


def row_name(encoder: Encoder) -> str:
    """Of a way to pre-train and where it starts."""
    start = "" if encoder.method == AS_PUBLISHED else f", {encoder.start} weights"
    return f"{NAMES[encoder.method]}{'' if encoder.method == UNTRAINED else start}"


def compared(results: Results, encoders: Sequence[Encoder], base: Encoder) -> list[Difference | None]:
    """SimScore of encoders less that of one; variants, some of which have fewer seeds, less that of the same seeds."""
    user = results.pages["similarity_user"]
    differences = []
    for encoder in encoders:
        seeds = results.seeds(f"hm/encoders/{encoder.name}") if encoder.variant else range(SEEDS)
        found, reference = results.similarity(encoder), results.similarity(base, seeds)
        known = found is not None and reference is not None and encoder != base
        differences.append(results.difference(found - reference, user) if known else None)
    return differences


def gains(results: Results, encoders: Sequence[Encoder], feature: str, part: str) -> list[Difference | None]:
    """GAUC of rankers with an encoder's pictures less that of rankers without."""
    none, user = results.ranker("none", part), results.pages["ranker_user"][part]
    found = [results.ranker(f"{encoder.name}-{feature}", part) for encoder in encoders]
    return [None if each is None or none is None else results.difference(each - none, user) for each in found]


def auc_gains(results: Results, encoders: Sequence[Encoder], feature: str) -> list[Difference | None]:
    """AUC of rankers with an encoder's pictures less that of rankers without."""
    none = results.auc("none")
    found = [results.auc(f"{encoder.name}-{feature}") for encoder in encoders]
    counts = results.pages["candidates"]
    return [None if each is None or none is None else results.auc_difference(each, none, counts) for each in found]


def category_gains(results: Results, encoder: Encoder, feature: str) -> dict[str, Difference]:
    """By category of the clicked candidate: how much better pictures place it among its page's unclicked candidates."""
    rows = (results.read(f"hm/rankers/{name}") for name in (f"{encoder.name}-{feature}", "none"))
    found, none = (np.mean([seed["clicks"] for seed in seeds], axis=0) if seeds else None for seeds in rows)
    if found is None or none is None:
        return {}
    category, user = np.array(results.pages["click_category"]), np.array(results.pages["click_user"])
    names, counts = np.unique(category, return_counts=True)
    common = names[np.argsort(-counts)][:COMMON_CATEGORIES]
    return {str(name): results.difference((found - none)[category == name], user[category == name]) for name in common}


def compared_on(results: Results, data: str, encoders: Sequence[Encoder]) -> list[Difference | None]:
    """SimScore of encoders on other data than H&M less that of COURIER from the same start."""
    differences: list[Difference | None] = []
    for encoder in encoders:
        base = Encoder("courier", encoder.start)
        found, reference = (_similarity_on(results, data, each.name) for each in (encoder, base))
        if encoder == base or not len(found) or not len(reference):
            differences.append(None)
            continue
        user = results.read(f"{data}/encoders/{base.name}")[0]["user"]
        differences.append(results.difference(found.mean(axis=0) - reference.mean(axis=0), user))
    return differences


def _similarity_on(results: Results, data: str, name: str) -> np.ndarray:
    """AUC of SimScore by seed and test page, of the form that the first seed's validation pages choose."""
    seeds = results.read(f"{data}/encoders/{name}")
    form = max(FORMS, key=seeds[0]["validation"].__getitem__) if seeds else ""
    return np.array([seed["test"][form] for seed in seeds])


class Growth(NamedTuple):
    """What is found with so many pages to learn on.

    Attributes:
        gauc: of SimScore, the mean over seeds.
        deviation: over seeds; `None` for one.
        ranker: GAUC of the ranker by `simscore`.
        gain: over the ranker without pictures.
    """

    gauc: float
    deviation: float | None
    ranker: float | None
    gain: Difference | None


def growth(results: Results, data: str, encoder: Encoder, size: int = 0) -> Growth | None:
    """What was found on other data than H&M; `None` if nothing was."""
    name = f"{encoder.name}-{size}" if size else encoder.name
    seeds, none = _similarity_on(results, data, name), results.read(f"{data}/rankers/none")
    if not len(seeds):
        return None
    gaucs = seeds.mean(axis=1).tolist()
    deviation = statistics.stdev(gaucs) if len(gaucs) > 1 else None
    ranked = results.read(f"{data}/rankers/{name}-simscore")
    if not ranked or not none:
        return Growth(statistics.mean(gaucs), deviation, None, None)
    found, without = (np.mean([each["pages"] for each in of], axis=0) for of in (ranked, none))
    gain = results.difference(found - without, ranked[0]["user"])
    return Growth(statistics.mean(gaucs), deviation, float(found.mean()), gain)
