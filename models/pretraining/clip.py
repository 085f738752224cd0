"""CLIP: an image encoder learns what its pictures' titles say."""

from typing import Any

import keras
from pydantic import Field

from models.config import Config
from models.pretraining.pair_method import PairMethod
from models.pretraining.title_contrast import TitleContrast, has_title


class TitleContrastConfig(Config):
    """How pictures are compared with titles, see `TitleContrast`.

    Attributes:
        temperature: of the contrast.
        learned_temperature: whether it is learnt from there.
        mask_same_title: whether other pictures with the very same title leave the softmax.
    """

    temperature: float = Field(0.1, gt=0)
    learned_temperature: bool = False
    mask_same_title: bool = True


@keras.saving.register_keras_serializable(package="courier")
class Clip(PairMethod):
    """Pre-trains an image encoder against a text encoder: a picture and its title must find each other.

    Users' clicks play no part. Pictures without a title are left out; see `PairMethod` for what counts otherwise, and
    for metrics, whose pairs are a picture and a title.

    Args:
        encoder: see `PretrainingMethod`.
        titles: the text encoder and the loss.

    Inputs: a dictionary, see `PretrainingMethod`, and:
        tokens: int32 `(distinct, length)`, the tokens of each picture's title, -1 = padding.

    Example:
        >>> text = TextConfig(weights="all_minilm_l6_v2")
        >>> clip = Clip(encoder, TitleContrast(build_text_encoder(text, encoder.embedding_dim)))
        >>> clip.compile("adam")
        >>> clip.fit(dataset.pretraining(image_size=(48, 32), tokenize=build_tokenizer(text)).batches(64), epochs=8)

    Reference: Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021); COURIER,
    section 4.2.2.
    """

    def __init__(self, encoder: keras.Model, titles: TitleContrast, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        if titles.text_encoder.embedding_dim != encoder.embedding_dim:
            raise ValueError(
                f"`titles` must embed as the encoder does, in {encoder.embedding_dim} dimensions. "
                f"Received: {titles.text_encoder.embedding_dim}"
            )
        self.titles = titles
        self.built = True

    def counted_pictures(self, x: dict[str, Any]) -> Any:
        """See `PretrainingMethod`; only pictures with a title count."""
        return super().counted_pictures(x) & has_title(x["tokens"])

    def embed_pairs(self, inputs: dict[str, Any], counted: Any, training: bool) -> dict[str, Any]:
        """`view_1`, the embeddings of the pictures, and `view_2`, those of their titles."""
        return {
            "view_1": self.embed(inputs, training=training),
            "view_2": self.titles(inputs["tokens"], training=training),
        }

    def loss_part(self, x: dict[str, Any], y_pred: dict[str, Any], pictures: Any, training: bool) -> Any:
        """See `PairMethod`."""
        return self.titles.loss_part(y_pred["view_1"], y_pred["view_2"], x["tokens"], y_pred["counted"])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "titles": keras.saving.serialize_keras_object(self.titles)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Clip":
        """Builds a model from what `get_config` returned."""
        titles = keras.saving.deserialize_keras_object(config["titles"], custom_objects=custom_objects)
        return super().from_config({**config, "titles": titles}, custom_objects)
