import dataclasses
import math

import pytest

from beam_pipelines import BuildOptions
from beam_pipelines.format.errors import InputError

JANUARY_1 = 1_767_225_600_000


@pytest.mark.parametrize(
    ("given", "moments"),
    [
        (("2026-01-01", "2026-01-02"), (JANUARY_1, JANUARY_1 + 86_400_000)),
        (["2026-01-01T01:00+01:00", " 2026-01-01T00:00:01 "], (JANUARY_1, JANUARY_1 + 1000)),
        ((JANUARY_1 // 1000, JANUARY_1), (JANUARY_1, JANUARY_1)),
        (None, None),
    ],
)
def test_moments_of_splits(given, moments):
    assert BuildOptions(split_by_time=given).split_times == moments


@pytest.mark.parametrize(
    ("given", "received"),
    [
        (("2026-01-08",), "2026-01-08"),
        ("2026-01-08,2026-01-09", "2026-01-08,2026-01-09"),
        (("2026-01-08", "soon"), "2026-01-08,soon"),
        (("2026-01-08", "2026-01-01"), "2026-01-08,2026-01-01"),
        ((1, 2, 3), "1,2,3"),
        ((), ""),
    ],
)
def test_other_than_two_moments_in_order_are_refused(given, received):
    with pytest.raises(InputError, match=rf"^`split_by_time` must be two moments, .*Received: {received}$"):
        BuildOptions(split_by_time=given)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        *((name, 0, "at least 1") for name in ("image_side", "click_days", "pay_days", "max_candidates")),
        *((name, -1, "at least 1") for name in ("pretraining_candidates", "pretraining_clicks", "bucket_memory_mb")),
        ("page_buckets", 0, "at least 1"),
        ("image_side", "256", "a whole number"),
        ("click_days", 1.5, "a whole number"),
        ("pay_days", True, "a whole number"),
        ("pay_days", None, "a whole number"),
        ("max_bad_fraction", 2, "between 0 and 1"),
        ("train_negatives", -0.1, "between 0 and 1"),
        ("pretraining_negatives", math.nan, "between 0 and 1"),
        ("pretraining_negatives", "0.5", "between 0 and 1"),
        ("page_gap_minutes", -1, "a number of minutes"),
        ("page_gap_minutes", math.nan, "a number of minutes"),
        ("page_gap_minutes", None, "a number of minutes"),
        ("attribute_clicks", -1, "a number of hours"),
        ("attribute_clicks", math.inf, "a number of hours"),
        ("image_format", "png", "one of jpeg, webp"),
        ("timestamp_unit", "minutes", "one of seconds, milliseconds, microseconds, "),
        ("pretraining_view", "pages", "one of page, causal"),
        ("same_category_clicks", 1, "true or false"),
        ("split_reused_pages", "yes", "true or false"),
        ("pretraining_categories", "shirt", "a list"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_option(name, value, rule):
    with pytest.raises(InputError) as error:
        BuildOptions(**{name: value})
    assert str(error.value).startswith(f"`{name}` must be {rule}")
    assert str(error.value).endswith((f"Received: {value}", f"Received: {value!r}"))


def test_columns_are_a_mapping():
    with pytest.raises(InputError, match=r"^`columns` must map"):
        BuildOptions(columns=["items.image=photo"])


def test_the_causal_view_needs_the_end_of_pre_training():
    with pytest.raises(InputError, match=r"^`pretraining_view` causal needs `split_by_time`"):
        BuildOptions(pretraining_view="causal")
    BuildOptions(pretraining_view="causal", split_by_time=("2026-01-01", "2026-01-02"))


def test_options_cannot_be_changed_nor_given_by_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BuildOptions().image_side = 3
    with pytest.raises(TypeError):
        BuildOptions(("2026-01-01", "2026-01-02"))
    with pytest.raises(TypeError, match="imageside"):
        BuildOptions(imageside=3)


def test_every_option_is_documented():
    for field in dataclasses.fields(BuildOptions):
        assert f"\n        {field.name}: " in BuildOptions.__doc__
