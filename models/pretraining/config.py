"""Configuration of encoder pre-training."""

from typing import Annotated, Literal

from pydantic import Field

from models.config import Config
from models.pretraining.clip import TitleContrastConfig
from models.pretraining.courier_config import CourierConfig
from models.pretraining.m6_moe import M6MoEConfig
from models.pretraining.mask_clip import MaskClipConfig
from models.pretraining.moco_v2 import MoCoV2Config
from models.pretraining.simclr import SimCLRConfig
from models.pretraining.simsiam import SimSiamConfig
from models.pretraining.supervised import SupervisedConfig
from models.pretraining.swav import SwAVConfig
from models.text.config import TextConfig
from models.training.optimizer import OptimizerConfig
from models.vision.config import EncoderConfig

Positive = Annotated[int, Field(gt=0)]


class PretrainConfig(Config):
    """How an encoder learns.

    Attributes:
        image_size: height and width that pictures are resized to.
        encoder: the architecture.
        courier: COURIER, its variants and ablations. This section and the next ones are each of one method, and of no
            use to the others.
        simclr, simsiam, moco_v2, swav: SimCLR, SimSiam, MoCo v2 and SwAV.
        supervised: a click model with the encoder in it.
        clip: the contrast of pictures and titles, of CLIP and of COURIER with `courier.titles`.
        maskclip: MaskCLIP; has the contrast of pictures and titles in it.
        m6_moe: M6.
        text: how titles are read, by the methods that read them.
        optimizer: how weights change.
        candidates: candidates per page, clicked ones first; at most `--pretraining-candidates` of the build.
        clicks: latest clicks per page; at most `--pretraining-clicks` of the build.
        augmentation: random changes of training pictures.
        batch_size: pages per step, over all devices.
        epochs: passes over the training pages. The best one on the validation pages is kept.
        validation_share: share of the pages, the latest ones, kept for validation; 0 keeps the last epoch.
        precision: of the network's computations; weights and losses are float32. The mixed ones are for GPUs.
        cache_megabytes: decoded pictures, or what the frozen stages of the backbone make of them, are kept in memory if
            they take at most this much.
        checkpoint_minutes: time between checkpoints, from which a run that was interrupted goes on; 0 writes one after
            every step.
        seed: of initialisation, shuffling and augmentation.
    """

    image_size: tuple[Positive, Positive] = (48, 32)
    encoder: EncoderConfig = EncoderConfig()
    courier: CourierConfig = CourierConfig()
    simclr: SimCLRConfig = SimCLRConfig()
    simsiam: SimSiamConfig = SimSiamConfig()
    moco_v2: MoCoV2Config = MoCoV2Config()
    swav: SwAVConfig = SwAVConfig()
    supervised: SupervisedConfig = SupervisedConfig()
    clip: TitleContrastConfig = TitleContrastConfig()
    maskclip: MaskClipConfig = MaskClipConfig()
    m6_moe: M6MoEConfig = M6MoEConfig()
    text: TextConfig = TextConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, schedule="cosine", clip_norm=1.0)
    candidates: Positive = 5
    clicks: Positive = 5
    augmentation: Literal["none", "flip_crop"] = "none"
    batch_size: Positive = 64
    epochs: Positive = 8
    validation_share: float = Field(0.1, ge=0, lt=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    cache_megabytes: int = Field(1024, ge=0)
    checkpoint_minutes: float = Field(10, ge=0)
    seed: int = 0
