import pytest

from beam_pipelines.logs.moments import parse_moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1700000000", 1_700_000_000_000),
        ("1700000000000", 1_700_000_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("1969-12-31", -86_400_000),
        ("soon", None),
        ("", None),
        ("-1", None),
    ],
)
def test_moments_are_iso_or_epoch_seconds_or_milliseconds(text, moment):
    assert parse_moment(text) == moment
