import datetime
import json
import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf

from export.server.epoch_times import EpochTimes
from export.server.model_config import VersionPolicy
from export.server.serving_error import ServingError
from tests.export.toy_server import prediction_stub, request_proto, rest, serve_toy

FIRST, LAST = 1_704_067_200_000, 1_704_672_000_000  # 2024-01-01 to 2024-01-08
SECONDS, MICROSECONDS, NANOSECONDS = FIRST // 1000, FIRST * 1000, FIRST * 1_000_000


class Clock(tf.Module):
    """A model that gives back the hour of a page and the number of steps of its history."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, "timestamp"),
            tf.TensorSpec([None, None], tf.int64, "click_time"),
            tf.TensorSpec([None], tf.int64, "dwell_time_limit"),
        ]
    )
    def hours(self, timestamp, click_time, dwell_time_limit):
        steps = tf.reduce_sum(tf.cast(click_time > 0, tf.int64), axis=1)
        return {"score": timestamp // 3_600_000 + steps + dwell_time_limit}


def write_window(version, **window):
    (version / "assets.extra").mkdir(exist_ok=True)
    (version / "assets.extra" / "ranker.json").write_text(json.dumps({"window": window}))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    base = tmp_path_factory.mktemp("clock")
    clock = Clock()
    tf.saved_model.save(clock, str(base / "1"), signatures=clock.hours)
    shutil.copytree(base / "1", base / "2")
    write_window(base / "2", first=FIRST, last=LAST)
    with serve_toy(base, policy=VersionPolicy.parse("all")) as (_, listening):
        yield listening


def ask(served, timestamp, click_time=(), version=2):
    body = {"inputs": {"timestamp": [timestamp], "click_time": [list(click_time)], "dwell_time_limit": [1]}}
    return rest(served, f"/v1/models/toy/versions/{version}:predict", body)


@pytest.mark.parametrize(
    ("timestamp", "seems"),
    [
        (SECONDS, "looks like seconds"),
        (MICROSECONDS, "looks like microseconds"),
        (NANOSECONDS, "looks like nanoseconds"),
        (0, "is no moment between 1990 and 2100"),
        (-1, "is no moment between 1990 and 2100"),
        (20240101, "is no moment between 1990 and 2100"),
        (2**63 - 1, "is no moment between 1990 and 2100"),
        (-(2**63), "is no moment between 1990 and 2100"),
    ],
)
def test_a_page_in_another_unit_is_refused(served, timestamp, seems):
    text = f"`timestamp` {timestamp} {seems}; the model expects epoch milliseconds "
    text += "(trained on pages of 2024-01-01 to 2024-01-08)"
    assert ask(served, timestamp) == (400, text)
    inputs = {"timestamp": [FIRST, timestamp], "click_time": np.zeros((2, 0), np.int64), "dwell_time_limit": [1, 1]}
    request = request_proto({name: np.array(value, np.int64) for name, value in inputs.items()}, version=2)
    with prediction_stub(served) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=10)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, text)
    assert ask(served, timestamp, version=1)[0] == 200  # does not say what it was trained on


@pytest.mark.parametrize("year", [1990, 2024, 2026, 2040, 2099])
def test_a_model_may_be_old_and_a_history_long(served, year):
    moment = int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp() * 1000)
    assert ask(served, moment) == (200, {"outputs": [moment // 3_600_000 + 1]})
    assert ask(served, LAST, [moment, LAST - 1])[0] == 200


def test_a_step_in_another_unit_is_refused(served):
    assert ask(served, LAST, [LAST - 1, 0, -1])[0] == 200  # padded
    status, text = ask(served, LAST, [LAST - 1, SECONDS])
    assert (status, text.startswith(f"`click_time` {SECONDS} looks like seconds; ")) == (400, True)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"window": 7}', '{"window": {"first": 0, "last": 1}}', '{"window": {"first": 1e300}}']
)
def test_a_version_that_does_not_tell_its_times_has_none(tmp_path, text):
    assert EpochTimes.of_version(tmp_path) is None
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "ranker.json").write_text(text)
    assert EpochTimes.of_version(tmp_path) is None
    write_window(tmp_path, first=FIRST, last=LAST)
    times = EpochTimes.of_version(tmp_path)
    assert times == (FIRST, LAST)
    times.check({"timestamp": np.array([1.5], np.float32), "user_id": np.array([b"a"], object)})  # no times
    with pytest.raises(ServingError):
        times.check({"timestamp": np.array([1])})
