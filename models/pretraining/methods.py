"""All ways to pre-train, by the names that `--method` takes."""

from collections.abc import Callable
from typing import NamedTuple

from beam_pipelines.format.errors import ConfigurationError
from models.pretraining.clip import Clip, TitleContrastConfig
from models.pretraining.config import PretrainConfig
from models.pretraining.courier_config import build_courier
from models.pretraining.m6_moe import M6MoE
from models.pretraining.mask_clip import MaskClip
from models.pretraining.method import PretrainingMethod
from models.pretraining.moco_v2 import MoCoV2
from models.pretraining.simclr import SimCLR
from models.pretraining.simsiam import SimSiam
from models.pretraining.supervised import Supervised
from models.pretraining.swav import SwAV
from models.pretraining.title_contrast import TitleContrast
from models.text.config import build_text_encoder
from models.vision.config import M6Config
from models.vision.encoder import ImageEncoder
from models.vision.thawed_encoder import ThawedEncoder

AnyEncoder = ImageEncoder | ThawedEncoder


class Method(NamedTuple):
    """A way to pre-train.

    Attributes:
        build: makes its model around an encoder.
        preset: of `models/configs`, what it is trained with where nothing else is said.
        sections: of `PretrainConfig`, those of methods that it reads.
        needs_unclicked: whether it learns nothing from pages whose candidates are all clicked.
        reads_titles: whether its batches need the titles of pictures.
        changes_pictures: whether its encoder sees views of pictures, or parts of them.
    """

    build: Callable[[PretrainConfig, AnyEncoder], PretrainingMethod]
    preset: str
    sections: tuple[str, ...]
    needs_unclicked: bool = False
    reads_titles: Callable[[PretrainConfig], bool] = lambda config: False
    changes_pictures: bool = False


def _of_section(
    kind: Callable[..., PretrainingMethod], section: str
) -> Callable[[PretrainConfig, AnyEncoder], PretrainingMethod]:
    """Makes a method whose arguments are the keys of a section."""
    return lambda config, encoder: kind(encoder, **getattr(config, section).model_dump(), dtype=config.precision)


def _title_contrast(config: PretrainConfig, encoder: AnyEncoder) -> TitleContrast:
    text_encoder = build_text_encoder(config.text, encoder.embedding_dim, config.precision)
    return TitleContrast(text_encoder, **config.clip.model_dump())


def _courier(config: PretrainConfig, encoder: AnyEncoder) -> PretrainingMethod:
    if config.courier.titles:
        return build_courier(config.courier, encoder, config.precision, _title_contrast(config, encoder))
    for section in ("clip", "text"):
        if getattr(config, section) != PretrainConfig.model_fields[section].default:
            raise ConfigurationError(f"{section}: is of no use without courier.titles")
    return build_courier(config.courier, encoder, config.precision)


def _mask_clip(config: PretrainConfig, encoder: AnyEncoder) -> PretrainingMethod:
    contrast = {*TitleContrastConfig.model_fields}
    text_encoder = build_text_encoder(config.text, encoder.embedding_dim, config.precision)
    titles = TitleContrast(text_encoder, **config.maskclip.model_dump(include=contrast))
    return MaskClip(encoder, titles, **config.maskclip.model_dump(exclude=contrast), dtype=config.precision)


def _m6_moe(config: PretrainConfig, encoder: AnyEncoder) -> PretrainingMethod:
    backbone = config.encoder.backbone
    if not isinstance(backbone, M6Config):
        raise ConfigurationError(f"encoder.backbone.name: must be m6 with the method m6_moe. Received: {backbone.name}")
    if config.text.weights is not None:
        raise ConfigurationError("text.weights: must be null with the method m6_moe, whose transformer is its own")
    if backbone.vocabulary != config.text.buckets:
        raise ConfigurationError(
            f"encoder.backbone.vocabulary: must be the {config.text.buckets} of text.buckets. "
            f"Received: {backbone.vocabulary}"
        )
    return M6MoE(encoder, **config.m6_moe.model_dump(), dtype=config.precision)


METHODS: dict[str, Method] = {
    "courier": Method(
        _courier, "courier_cpu", ("courier", "clip", "text"), reads_titles=lambda config: config.courier.titles
    ),
    "simclr": Method(_of_section(SimCLR, "simclr"), "simclr_cpu", ("simclr",), changes_pictures=True),
    "simsiam": Method(_of_section(SimSiam, "simsiam"), "simsiam_cpu", ("simsiam",), changes_pictures=True),
    "moco_v2": Method(_of_section(MoCoV2, "moco_v2"), "moco_v2_cpu", ("moco_v2",), changes_pictures=True),
    "swav": Method(_of_section(SwAV, "swav"), "swav_cpu", ("swav",), changes_pictures=True),
    "supervised": Method(
        _of_section(Supervised, "supervised"),
        "supervised_cpu",
        ("supervised",),
        needs_unclicked=True,
    ),
    "clip": Method(
        lambda config, encoder: Clip(encoder, _title_contrast(config, encoder), dtype=config.precision),
        "clip_cpu",
        ("clip", "text"),
        reads_titles=lambda config: True,
    ),
    "maskclip": Method(
        _mask_clip, "maskclip_cpu", ("maskclip", "text"), reads_titles=lambda config: True, changes_pictures=True
    ),
    "m6_moe": Method(
        _m6_moe, "m6_moe_cpu", ("m6_moe", "text"), reads_titles=lambda config: True, changes_pictures=True
    ),
}

AS_PUBLISHED = "none"
"""The method that trains nothing: the encoder is a published backbone as it is."""

PRESETS = {**{name: method.preset for name, method in METHODS.items()}, AS_PUBLISHED: "efficientnet_lite0"}
"""The preset of each method."""


def unused_sections(method: str) -> set[str]:
    """The sections of `PretrainConfig` that are of other methods."""
    return {section for other in METHODS.values() for section in other.sections} - {*METHODS[method].sections}
