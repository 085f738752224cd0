import keras
import pytest

from beam_pipelines.format.errors import InputError
from models.config import Config, load_config
from models.pretraining.courier import Courier
from models.pretraining.courier_config import CourierConfig, build_courier
from models.pretraining.official_code import OfficialCodeCourier
from models.pretraining.reconstruction import SelfAttentionReconstruction
from tests.models.courier_batch import Table


class Section(Config):
    courier: CourierConfig = CourierConfig()


def load(*overrides):
    return load_config(Section, None, [f"courier.{override}" for override in overrides]).courier


def test_the_defaults_are_the_paper():
    config, plain = build_courier(CourierConfig(), Table()), Courier(Table())
    for name in ("temperature", "click_sequence", "objective", "margin", "negative_candidates", "mask_same_item"):
        assert getattr(config, name) == getattr(plain, name)
    assert config.temperature == 0.05
    assert type(config) is Courier
    assert config.reconstruction.get_config() == plain.reconstruction.get_config()
    assert config.reconstruction.scores == "scaled"
    assert config.projection_head is None


def test_every_value_reaches_the_model():
    model = build_courier(
        load(
            "scores=raw", "click_sequence=false", "objective=hinge", "margin=0.7", "reconstruction=self_attention"
        ).model_copy(update={"negative_candidates": False, "projection_head": True}),
        Table(),
        dtype="mixed_float16",
    )
    assert isinstance(model.reconstruction, SelfAttentionReconstruction)
    assert (model.reconstruction.scores, model.click_sequence, model.objective) == ("raw", False, "hinge")
    assert (model.margin, model.negative_candidates) == (0.7, False)
    assert model.projection_head.dim == Table().embedding_dim
    assert model.dtype_policy == keras.DTypePolicy("mixed_float16")
    assert build_courier(load("mask_same_item=true"), Table()).mask_same_item
    official = build_courier(load("implementation=official_code", "temperature=0.1"), Table())
    assert type(official) is OfficialCodeCourier
    assert official.temperature == 0.1


def test_yaml_round_trip(tmp_path):
    config = Section(courier=load("implementation=official_code", "temperature=0.1"))
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(Section, str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["temperature=0"], "courier.temperature"),
        (["objective=triplet"], "courier.objective"),
        (["tau=0.1"], "unknown key courier.tau"),
        (["margin=0.5"], "margin must be 0.2 with objective contrast"),
        (["objective=hinge", "temperature=0.1"], "temperature must be 0.05 with objective hinge"),
        (["objective=similarity", "mask_same_item=true"], "mask_same_item must be false with objective similarity"),
        (["objective=similarity", "negative_candidates=false"], "negative_candidates must be true with objective sim"),
        (["implementation=official_code", "scores=raw"], "scores must be scaled with implementation official_code"),
        (["implementation=official_code", "objective=hinge"], "objective must be contrast with implementation off"),
        (["implementation=official_code", "projection_head=true"], "projection_head must be false with impl"),
    ],
)
def test_values_without_an_effect_are_refused_by_name(overrides, message):
    with pytest.raises(InputError, match=message):
        load(*overrides)
