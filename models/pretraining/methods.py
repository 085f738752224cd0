"""All ways to pre-train, by the names that `--method` takes."""

from collections.abc import Callable
from typing import NamedTuple

from models.pretraining.config import PretrainConfig
from models.pretraining.courier_config import build_courier
from models.pretraining.method import PretrainingMethod
from models.pretraining.moco_v2 import MoCoV2
from models.pretraining.simclr import SimCLR
from models.pretraining.simsiam import SimSiam
from models.pretraining.supervised import Supervised
from models.pretraining.swav import SwAV
from models.vision.encoder import ImageEncoder


class Method(NamedTuple):
    """A way to pre-train.

    Attributes:
        build: makes its model around an encoder.
        preset: of `models/configs`, what it is trained with where nothing else is said.
        sections: of `PretrainConfig`, those of methods that it reads.
        needs_unclicked: whether it learns nothing from pages whose candidates are all clicked.
    """

    build: Callable[[PretrainConfig, ImageEncoder], PretrainingMethod]
    preset: str
    sections: tuple[str, ...]
    needs_unclicked: bool = False


METHODS: dict[str, Method] = {
    "courier": Method(
        lambda config, encoder: build_courier(config.courier, encoder, dtype=config.precision),
        "courier_cpu",
        ("courier",),
    ),
    "simclr": Method(
        lambda config, encoder: SimCLR(encoder, **config.simclr.model_dump(), dtype=config.precision),
        "simclr_cpu",
        ("simclr",),
    ),
    "simsiam": Method(
        lambda config, encoder: SimSiam(encoder, **config.simsiam.model_dump(), dtype=config.precision),
        "simsiam_cpu",
        ("simsiam",),
    ),
    "moco_v2": Method(
        lambda config, encoder: MoCoV2(encoder, **config.moco_v2.model_dump(), dtype=config.precision),
        "moco_v2_cpu",
        ("moco_v2",),
    ),
    "swav": Method(
        lambda config, encoder: SwAV(encoder, **config.swav.model_dump(), dtype=config.precision),
        "swav_cpu",
        ("swav",),
    ),
    "supervised": Method(
        lambda config, encoder: Supervised(encoder, **config.supervised.model_dump(), dtype=config.precision),
        "supervised_cpu",
        ("supervised",),
        needs_unclicked=True,
    ),
}

AS_PUBLISHED = "none"
"""The method that trains nothing: the encoder is a published backbone as it is."""

PRESETS = {**{name: method.preset for name, method in METHODS.items()}, AS_PUBLISHED: "efficientnet_lite0"}
"""The preset of each method."""


def unused_sections(method: str) -> set[str]:
    """The sections of `PretrainConfig` that are of other methods."""
    return {section for other in METHODS.values() for section in other.sections} - {*METHODS[method].sections}
