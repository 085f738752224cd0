import json
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.format.errors import ArtifactError, ConfigurationError
from models import Arm, Experiment

USERS = [f"user-{n}" for n in range(2000)]
HALVES = (Arm("control"), Arm("pictures"))


def arms(experiment, users=USERS):
    return [None if (arm := experiment.arm(user)) is None else arm.name for user in users]


def test_assignments_are_those_that_were_recorded():
    """They must never change: a running experiment would be broken."""
    recorded = {"anna": "control", "ben": "pictures", "carl": "control", "0042": "control", "42": "pictures"}
    recorded["Zoë"] = "control"
    experiment = Experiment("pictures", HALVES)
    assert {user: experiment.arm(user).name for user in recorded} == recorded


def test_another_process_assigns_alike():
    code = (
        "from models import Arm, Experiment\n"
        "e = Experiment('pictures', (Arm('control', 3), Arm('pictures', 7)), 'search', (.2, .8))\n"
        "print([a and a.name for a in map(e.arm, ['user-%d' % n for n in range(50)])])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    experiment = Experiment("pictures", (Arm("control", 3), Arm("pictures", 7)), "search", (0.2, 0.8))
    assert done.stdout.strip() == str(arms(experiment, USERS[:50]))


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=5))
def test_any_weights_split_as_they_say(weights):
    experiment = Experiment("any", [Arm(f"arm {n}", weight) for n, weight in enumerate(weights)])
    found = arms(experiment, USERS[:300])
    assert None not in found
    for name, share in experiment.shares().items():
        assert abs(found.count(name) / 300 - share) < 0.145  # five standard errors of a half
    doubled = Experiment("any", [Arm(f"arm {n}", 2 * weight) for n, weight in enumerate(weights)])
    assert arms(doubled, USERS[:300]) == found


@settings(max_examples=30)
@given(st.floats(0.1, 0.9), st.floats(0, 0.9))
def test_wider_shares_move_no_user_from_one_arm_to_another(end, start):
    whole, part = (
        arms(Experiment("pictures", HALVES, "search", share), USERS[:300])
        for share in ((0.0, 1.0), (min(start, end * 0.9), end))
    )
    assert all(arm in (None, everyone) for arm, everyone in zip(part, whole, strict=True))


def test_experiments_of_a_layer_exclude_each_other_and_layers_are_independent():
    first = arms(Experiment("a", HALVES, "search", (0, 0.5)))
    second = arms(Experiment("b", HALVES, "search", (0.5, 1)))
    assert all((one is None) != (other is None) for one, other in zip(first, second, strict=True))
    other = arms(Experiment("c", HALVES))
    both = sum(one == "control" and another == "control" for one, another in zip(first, other, strict=True))
    assert abs(both / first.count("control") - 0.5) < 0.1  # four standard errors


def test_a_file_says_an_experiment(tmp_path):
    document = {
        "name": "pictures",
        "arms": [{"name": "control", "label": "stable"}, {"name": "pictures", "version": 7, "weight": 3}],
        "layer": "search",
        "share": [0, 0.5],
    }
    (tmp_path / "e.json").write_text(json.dumps(document))
    arms = (Arm("control", label="stable"), Arm("pictures", 3, version=7))
    experiment = Experiment.read(tmp_path / "e.json")
    assert experiment == Experiment("pictures", arms, "search", (0, 0.5))
    assert experiment.shares() == {"control": 0.25, "pictures": 0.75}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"arms": [{"name": "control"}]}, "`arms` must be two or more. Received: control"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "`arms` must have different names"),
        ({"arms": "ab"}, "`arms` must be a list"),
        ({"arms": [{"name": "a"}, {"weight": 1}]}, "an arm must have name. Received: weight"),
        ({"arms": [{"name": "a"}, {"name": "b", "weight": 0}]}, "`weight` of an arm must be a positive number"),
        ({"arms": [{"name": "a"}, {"name": "b", "weight": True}]}, "`weight` of an arm must be a positive number"),
        ({"arms": [{"name": "a"}, {"name": "b", "version": 1, "label": "x"}]}, "exclude each other"),
        ({"share": [0.5, 0.5]}, "`share` must be two numbers"),
        ({"share": [0, 1.5]}, "`share` must be two numbers"),
        ({"name": ""}, "`name` must be text that is not empty"),
        ({"salt": "x"}, "an experiment has no salt; its keys are arms, layer, name, share"),
    ],
)
def test_what_is_no_experiment_is_named(tmp_path, change, text):
    good = {"name": "pictures", "arms": [{"name": "control"}, {"name": "pictures"}]}
    (tmp_path / "e.json").write_text(json.dumps(good | change))
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        Experiment.read(tmp_path / "e.json")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Experiment.read(tmp_path / "none.json")
