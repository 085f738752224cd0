"""What the study of ways to pre-train measures, and what each of them gets; written down before it was measured.

**Data.** H&M's purchases as pages with sampled negatives, the dataset of `benchmarks.pictures.hm`: encoders learn on
its pre-training window, rankers on the train window, and everything is reported on the test window. The train window's
pages are also those that settings are chosen on.

**Equal for all.** Pages shown: eight times those of the pre-training window from random weights and three times from
published ones, so that each way reads the same pictures as often; those with two views encode each of them twice, which
costs them time and is not taken away. One backbone: the small ConvNet of `courier_cpu` from random weights, or
EfficientNet-Lite0 from ImageNet's, whose first six stages stay as they are. (M6 has a transformer of its own and no
published weights.) The epoch kept is the best one of SimScore on the latest tenth of the window's pages.

**Tuning.** Four tries each, with one seed: three learning rates, and one more setting at the middle rate, `tries`. Try
and form, raw or whitened to 64 components, are those of the best SimScore GAUC on the train window's pages. Then three
seeds with what was chosen, of which the first is that of the try, and the test pages once.

**Variants** of COURIER, those of the paper's tables, take COURIER's choice and change one thing. They are not tuned.
Where a variant has fewer pages to learn on, or more, it passes over them more often, or less. Three seeds of those that
remove or replace a part, with a ranker by `simscore`; one of temperatures, batches, clicks, views and pages.

**When learning from clicks pays**: COURIER from random and from published weights on 1,000 to 64,000 pages of a world
of simulated shoppers (`benchmarks/study/world.py`), all sizes with as many steps as 64,000 pages make once, with the
settings that H&M's pages chose; three seeds from random weights, one from published ones. Beside it the untrained
network and Lite0 as it is. SimScore and a ranker by `simscore` on the world's test pages; the form is that of the
better SimScore on its train window's pages. On H&M the same with a half, a quarter and an eighth of its pages.

**Other data**: all ways on the shipped sample and on MovieLens' posters, with the settings that H&M's pages chose and
the form that is better on their own train pages; SimScore and a ranker by `simscore`, with one seed. That of the sample
predicts three outcomes, as in the article's Tables 2 to 4.

**Changed on the way**, to keep within 12 hours of two cores: at first all variants and sizes had three seeds, and those
that remove a part rankers by every feature. When this was changed, no variant had been measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from benchmarks.study.world import World

Start = Literal["random", "published"]

SEEDS = 3
SEEDS_OF_OTHER_DATA = SEEDS_OF_SETTINGS = 1
EPOCHS: Mapping[Start, int] = {"random": 8, "published": 3}
"""Passes over the pages of the whole window."""
WHITENED_DIM = 64
FORMS = ("raw", "whitened")

METHODS = ("courier", "supervised", "simclr", "simsiam", "moco_v2", "swav", "clip", "maskclip", "m6_moe")
UNTRAINED, AS_PUBLISHED = "untrained", "as_published"
"""Encoders that learn nothing: with random weights, and Lite0 as it is."""

LEARNING_RATES: Mapping[Start, tuple[float, float, float]] = {
    "random": (1e-4, 3e-4, 1e-3),
    "published": (3e-5, 1e-4, 3e-4),
}

_ONE_MORE: Mapping[str, str] = {
    "courier": "courier.temperature=0.1",
    "supervised": "augmentation=flip_crop",
    "simclr": "simclr.augmentation_strength=0.5",
    "simsiam": "simsiam.augmentation_strength=0.5",
    "moco_v2": "moco_v2.augmentation_strength=0.5",
    "swav": "swav.augmentation_strength=0.5",
    "clip": "clip.temperature=0.05",
    "maskclip": "maskclip.temperature=0.05",
    "m6_moe": "m6_moe.augmentation_strength=0.5",
}
_PROJECTION = "encoder.embedding_dim=256"

PUBLISHED_START = (
    "image_size=[112, 80]",
    "encoder.backbone={name: efficientnet_lite, frozen_stages: 6}",
    "encoder.weights=efficientnet_lite0",
)
"""Of all that start from published weights. Their embeddings are the features of all stages, but in the one more try of
each, which has a projection from random weights behind them, as the paper has."""


class Encoder(NamedTuple):
    """An encoder to train and measure.

    Attributes:
        method: of `METHODS`, or `UNTRAINED` or `AS_PUBLISHED`.
        start: where its weights begin.
        changes: `KEY=VALUE` of its configuration, besides what its start and what tuning have chosen.
        variant: of which row of the tables it is, besides method and start.
        view: of the pre-training pages: `page`, `causal`, one of `CATEGORIES` or of `PARTS_OF_PAGES`.
    """

    method: str
    start: Start = "random"
    changes: tuple[str, ...] = ()
    variant: str = ""
    view: str = "page"

    @property
    def name(self) -> str:
        """Of its files."""
        return "-".join(part for part in (self.method, self.start, self.variant) if part)


def tries(method: str, start: Start) -> dict[str, Encoder]:
    """What tuning tries, by name."""
    rates = LEARNING_RATES[start]
    tried = {f"rate_{rate:g}": (f"optimizer.learning_rate={rate:g}",) for rate in rates}
    more = _ONE_MORE[method] if start == "random" else _PROJECTION
    tried["one_more"] = (f"optimizer.learning_rate={rates[1]:g}", more)
    return {name: Encoder(method, start, changes) for name, changes in tried.items()}


def methods() -> Iterator[Encoder]:
    """The ways to pre-train: the paper's Table 5 and the article's Table 1."""
    yield Encoder(UNTRAINED)
    yield Encoder(AS_PUBLISHED, "published")
    for start in LEARNING_RATES:
        for method in METHODS:
            if not (method == "m6_moe" and start == "published"):
                yield Encoder(method, start)


VARIANTS: Mapping[str, tuple[str, ...]] = {
    "no_click_sequence": ("courier.click_sequence=false",),
    "no_contrast": ("courier.objective=similarity", "courier.temperature=0.05"),
    "no_reconstruction": ("courier.reconstruction=self_attention",),
    "no_negative_candidates": ("courier.negative_candidates=false",),
    "projection_head": ("courier.projection_head=true",),
    "hinge": ("courier.objective=hinge", "courier.temperature=0.05"),
    "titles": ("courier.titles=true",),
    **{f"temperature_{value:g}": (f"courier.temperature={value:g}",) for value in (0.02, 0.05, 0.1, 0.2, 0.5)},
    **{f"batch_{pages}": (f"batch_size={pages}",) for pages in (16, 32, 64, 128, 256, 512)},
    "clicks_10": ("clicks=10",),
}
"""Of COURIER from random weights: Tables 6, 8, 11 and 12, Figure 3 and Table 7, and more clicks. Objectives without a
temperature want the preset's."""

CATEGORIES: Mapping[str, str] = {"only_trousers": "Trousers", "only_sweaters": "Sweater"}
"""Pre-training pages of one category alone, as in the paper's 4.3.5: the two that are clicked most in the window."""

PARTS_OF_PAGES: Mapping[str, int] = {"half": 2, "quarter": 4, "eighth": 8}
"""Of the pre-training window."""

THROUGH_RANKER = (
    "no_click_sequence",
    "no_contrast",
    "no_reconstruction",
    "no_negative_candidates",
    "projection_head",
    "hinge",
    "titles",
)
"""Variants that remove or replace a part: Tables 6, 8, 11 and 12."""

RANKER_FEATURES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "vector": ("vector", ()),
    "simscore": ("simscore", ()),
    "cluster_id": ("cluster_id", ("ranker.embed_clusters=true", "ranker.compare_clusters=false")),
}
"""How pictures enter the ranker, and the configuration that goes with it: `cluster_id` is the paper's, an ID alone."""


def variants() -> Iterator[Encoder]:
    """COURIER's variants."""
    for name, changes in VARIANTS.items():
        yield Encoder("courier", "random", changes, name)
    for view in ("causal", *CATEGORIES):
        yield Encoder("courier", "random", (), view, view)


def fewer_pages() -> Iterator[Encoder]:
    """COURIER on parts of H&M's pages."""
    for start in LEARNING_RATES:
        for part in PARTS_OF_PAGES:
            yield Encoder("courier", start, (), part, part)


def features_of(encoder: Encoder) -> tuple[str, ...]:
    """By which features rankers read an encoder's pictures; the other variants are compared by SimScore alone."""
    if not encoder.variant:
        return tuple(RANKER_FEATURES)
    return ("simscore",) if encoder.variant in (*THROUGH_RANKER, *CATEGORIES, *PARTS_OF_PAGES) else ()


WORLD = World(sizes=(1_000, 4_000, 16_000, 64_000), train_pages=8_000, test_pages=4_000, earlier_pages=8_000)


def growing(sizes: Sequence[int]) -> Iterator[tuple[Encoder, int]]:
    """Encoders of the simulated world, and how many pages they learn on; 0 for those that do not learn."""
    yield Encoder(UNTRAINED), 0
    yield Encoder(AS_PUBLISHED, "published"), 0
    yield from ((Encoder("courier", start), size) for start in LEARNING_RATES for size in sizes)


OTHER_DATA = ("sample", "movielens")
