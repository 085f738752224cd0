import re
import shutil

import numpy as np
import pytest

from export.gates.version_check import VersionError, check, replay, session_gates
from export.server.serving_error import ServingError
from export.version.inputs import request_inputs
from export.version.recorded_requests import read_golden, read_warmup, write_golden, write_warmup
from tests.export.toy_ranker import with_defaults


@pytest.fixture(scope="module")
def gates(toy_base_path, reference, ranker):
    return session_gates(toy_base_path / "11", reference, request_inputs(ranker))


def answer(servable, request):
    try:
        return servable.predict(request.signature, with_defaults(servable, request.signature, request.inputs))
    except ServingError as error:
        return error.message


@pytest.fixture(scope="module")
def answers(servable, gates):
    return {gate.name: [answer(servable, request) for request in gate.requests] for gate in gates}


def test_a_good_version_passes_every_gate(gates, answers):
    figures = {gate.name: check(gate, answers[gate.name]) for gate in gates}
    assert list(figures) == [
        "warm-up",
        "golden requests",
        "rows independent of batch mates",
        "empty, absent and unknown",
        "NaN",
    ]
    assert figures["golden requests"].startswith("24 requests replayed to the recorded scores")


@pytest.mark.parametrize(
    ("name", "what", "change", "text"),
    [
        ("warm-up", "request 1", lambda ctr: ctr * np.nan, "request 1: 9 values of ctr are not finite"),
        ("warm-up", "request 2", lambda ctr: ctr + 0.1, "request 2: padded candidates with a ctr other than 0"),
        ("golden requests", "request 5 (tf_example)", lambda ctr: ctr * 0.9, "request 5 .*: ctr is off by"),
        (
            "rows independent of batch mates",
            "tf_example of pages [0, 1, 2, 3, 4, 5, 6, 7]",
            lambda ctr: ctr * 0.9,
            "page 0 against page 0 alone: ctr is off by",
        ),
        (
            "rows independent of batch mates",
            "serving_default of pages [7, 6, 5, 4, 3, 2, 1, 0]",
            lambda ctr: ctr[::-1],
            "padded candidates with a ctr other than 0|against page . alone",
        ),
        ("empty, absent and unknown", "a page of empty histories", lambda ctr: ctr + 2, "ctr out of range"),
        ("empty, absent and unknown", "a page of unknown IDs", lambda ctr: ctr - 1, "a page of unknown IDs: ctr out"),
        ("empty, absent and unknown", "a page without candidates", lambda ctr: np.zeros((1, 1)), "ctr of shape"),
        (
            "empty, absent and unknown",
            "a page without histories",
            lambda ctr: ctr * 0.9,
            "a page without histories, against a page of empty histories: ctr is off",
        ),
        (
            "empty, absent and unknown",
            "known items with features of new ones",
            lambda ctr: ctr * 0.9,
            "known items with features of new ones, against a page: ctr is off",
        ),
        ("NaN", "numbers that are nan", lambda ctr: ctr * np.nan, "numbers that are nan: . values of ctr are not fin"),
        ("NaN", "numbers that are inf", lambda ctr: ctr * 0.9, "numbers that are inf, against missing ones: ctr is"),
    ],
)
def test_a_version_that_answers_wrongly_fails_its_gate(gates, answers, name, what, change, text):
    gate = next(gate for gate in gates if gate.name == name)
    changed = [dict(each) for each in answers[name]]
    number = [request.what for request in gate.requests].index(what)
    changed[number]["ctr"] = change(changed[number]["ctr"])
    with pytest.raises(VersionError, match=text):
        check(gate, changed)


def test_recorded_requests_that_do_not_fit_the_version_fail_their_gates(
    servable, toy_base_path, reference, ranker, tmp_path
):
    """Of another version: golden scores that differ, warm-up that it cannot run, and none at all."""
    extra = tmp_path / "assets.extra"
    shutil.copytree(toy_base_path / "11/assets.extra", extra)
    golden = read_golden(tmp_path)
    write_golden(tmp_path, [*golden[:3], golden[3]._replace(outputs={"ctr": golden[3].outputs["ctr"] + 2e-6})])
    warmup = read_warmup(tmp_path)
    write_warmup(tmp_path, [warmup[0], ("serving_default", {**warmup[0][1], "query": warmup[2][1]["query"]})])

    def failing(number):
        gate = session_gates(tmp_path, reference, request_inputs(ranker))[number]
        with pytest.raises(VersionError) as caught:
            check(gate, [answer(servable, request) for request in gate.requests])
        return str(caught.value)

    assert "request 1: " in failing(0)
    assert "query must have one row per user_id" in failing(0)
    assert re.search(r"request 3 \(tf_example\): ctr is off by 2.*e-06", failing(1))
    shutil.rmtree(extra)
    assert failing(0) == "it has no warm-up requests"
    assert failing(1) == "it has no golden requests"


def test_a_version_without_its_variables_does_not_load(toy_base_path, gates, tmp_path):
    shutil.copytree(toy_base_path / "11", tmp_path / "1")
    (tmp_path / "1/variables/variables.data-00000-of-00001").unlink()
    with pytest.raises(VersionError, match="it does not load: "):
        replay(tmp_path / "1", gates[0].requests)
