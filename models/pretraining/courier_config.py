"""Configuration of COURIER: the paper's method, its variants and ablations, and its published code."""

from typing import Literal

from pydantic import Field, model_validator

from models.config import Config
from models.pretraining.courier import Courier
from models.pretraining.official_code import OfficialCodeCourier
from models.pretraining.title_contrast import TitleContrast
from models.vision.encoder import ImageEncoder


class CourierConfig(Config):
    """How `Courier` learns. The defaults are the paper's method.

    A value that would have no effect beside the others must be left at its default.

    Attributes:
        implementation: `paper`, or `official_code`, the published code where it differs (see `OfficialCodeCourier`),
            which takes a temperature and no other value.
        temperature: of the contrasts.
        scores: attention scores of the reconstruction; `scaled` divides by the square root of the length.
        click_sequence: whether the click sequence has a loss. The paper's "w/o UCS" is false.
        objective: of both losses: `contrast`, `similarity` ("w/o Contrast": reconstructions and embeddings only
            attract each other) or `hinge` (appendix F: one random mismatched reconstruction per positive).
        margin: of the hinge, in cosines. The paper does not state its own.
        reconstruction: `cross_attention`, or `self_attention` ("w/o Reconstruction": clicks without the candidate).
        negative_candidates: whether unclicked candidates take part. "w/o Neg PV" is false.
        mask_same_item: whether other rows with a positive's own picture leave its softmax.
        projection_head: whether losses see embeddings through a head that is dropped afterwards (appendix D).
        titles: whether embeddings are contrasted with the pictures' titles, too, as the sections `clip` and `text` say
            (section 4.3.3).
    """

    implementation: Literal["paper", "official_code"] = "paper"
    temperature: float = Field(0.05, gt=0)
    scores: Literal["scaled", "raw"] = "scaled"
    click_sequence: bool = True
    objective: Literal["contrast", "similarity", "hinge"] = "contrast"
    margin: float = Field(0.2, gt=0)
    reconstruction: Literal["cross_attention", "self_attention"] = "cross_attention"
    negative_candidates: bool = True
    mask_same_item: bool = False
    projection_head: bool = False
    titles: bool = False

    @model_validator(mode="after")
    def _values_have_an_effect(self) -> "CourierConfig":
        unused: dict[str, str] = {}
        if self.objective != "contrast":
            unused |= dict.fromkeys(("temperature", "mask_same_item"), f"objective {self.objective}")
        if self.objective != "hinge":
            unused["margin"] = f"objective {self.objective}"
        if self.objective == "similarity":
            unused["negative_candidates"] = "objective similarity"
        if self.implementation == "official_code":
            others = type(self).model_fields.keys() - {"implementation", "temperature"}
            unused = dict.fromkeys(others, "implementation official_code")
        for key, field in type(self).model_fields.items():
            if key in unused and getattr(self, key) != field.default:
                raise ValueError(f"{key} must be {str(field.default).lower()} with {unused[key]}")
        return self


def build_courier(
    config: CourierConfig, encoder: ImageEncoder, dtype: str = "float32", titles: TitleContrast | None = None
) -> Courier:
    """A new `Courier` around an encoder.

    Args:
        config: how it learns.
        encoder: what learns.
        dtype: Keras policy, that of the encoder; `mixed_float16` makes `compile` scale the loss.
        titles: the contrast with titles, where `config` asks for it.
    """
    if config.implementation == "official_code":
        return OfficialCodeCourier(encoder, config.temperature, dtype=dtype)
    return Courier(encoder, **config.model_dump(exclude={"implementation", "titles"}), titles=titles, dtype=dtype)
