"""Configuration of fine-tuning."""

from typing import Annotated, Literal

from pydantic import Field

from models.config import Config
from models.training.optimizer import OptimizerConfig
from models.vision.config import EncoderConfig

Positive = Annotated[int, Field(gt=0)]


class RetrieveConfig(Config):
    """Metric learning for image search.

    Attributes:
        temperature: by which cosines are divided in the loss.
    """

    temperature: float = Field(0.1, gt=0)


class FinetuneConfig(Config):
    """How an encoder learns a task of its own.

    Attributes:
        image_size: height and width that pictures are resized to; a run to start from brings its own.
        encoder: the architecture, with random or published weights; a run to start from brings its own.
        retrieve: of the task `retrieve` alone.
        optimizer: how weights change.
        augmentation: random changes of training pictures.
        batch_size: pictures per step, over all devices; for `retrieve` two of each product.
        epochs: passes over the training pictures; for `retrieve`, over the products. The best one on the validation
            pictures is kept.
        held_out_share: share of the products whose pictures are held out and measured at the end, unless the source
            says which pictures these are.
        validation_share: share of the other products, which epochs are chosen by; 0 keeps the last epoch.
        precision: of the network's computations; weights and losses are float32.
        checkpoint_minutes: time between checkpoints, from which a run that was interrupted goes on; 0 writes one after
            every step.
        seed: of initialisation, draws and shuffling. What is held out follows from `split_seed` alone.
        split_seed: of what is held out.
    """

    image_size: tuple[Positive, Positive] = (48, 32)
    encoder: EncoderConfig = EncoderConfig()
    retrieve: RetrieveConfig = RetrieveConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, schedule="cosine", clip_norm=1.0)
    augmentation: Literal["none", "flip_crop"] = "flip_crop"
    batch_size: Positive = 64
    epochs: Positive = 8
    held_out_share: float = Field(0.25, gt=0, lt=1)
    validation_share: float = Field(0.1, ge=0, lt=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    checkpoint_minutes: float = Field(10, ge=0)
    seed: int = 0
    split_seed: int = 0
