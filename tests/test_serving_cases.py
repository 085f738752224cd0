"""Training, export and serving that went wrong for others, each with the outcome that is right.

The cases are kept beside the repository. Each trains, or starts a server: `make test-cases`.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT.parent / "shared" / "cases" / "serving"
pytestmark = [
    pytest.mark.cases,
    pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}"),
]


def predicts(printed: str) -> bool:
    """A status of 200 after predictions."""
    return printed.rstrip().endswith("[200]") and len(json.loads(printed.rpartition(" [")[0])["predictions"]) > 0


def answers_at_once(printed: str) -> bool:
    seconds = [float(found) for found in re.findall(r"200 in ([\d.]+) s", printed)]
    return len(seconds) == 2 and max(seconds) < 0.5 and "100 Continue" in printed


def constant_is_harmless(printed: str) -> bool:
    deviations = [json.loads("{" + text + "}") for text in re.findall(r'"stat_discount[^{]*\{([^}]*)\}', printed)]
    losses = [float(row.split()[-1]) for row in re.findall(r"^const1?\.ranker.*$", printed, re.MULTILINE)]
    return len(deviations) == 2 and "e-17" not in printed and len(losses) in (0, 2)


def never_first(printed: str) -> bool:
    scores = re.findall(r"^ctr_7d (\S.*): score ([\d.e+-]+), place (\d+) of (\d+)$", printed, re.MULTILINE)
    return len(scores) == 8 and all(0 < float(score) < 1 and place != "1" for _, score, place, _ in scores)


RIGHT: dict[str, Callable[[str], object]] = {
    "chunked-request": predicts,
    "gzip-request": predicts,
    "expect-100-continue": answers_at_once,
    "grpc-reflection": lambda printed: "tensorflow.serving.PredictionService" in printed,
    "ipv6-host": lambda printed: (printed.count("ready") == 2 and "[::1]" in printed) or "address" in printed.lower(),
    "flt-max-candidate": never_first,
    "constant-feature": constant_is_harmless,
    "dbl-max-statistic": lambda printed: "train: exit 0" not in printed or "evaluate: exit 0" in printed,
    "one-class-training": lambda printed: "exit 2" in printed and "no JSON" not in printed,
    "yaml-not-utf8": lambda printed: printed.count("exit 2") == 2 and "Traceback" not in printed,
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_outcome_is_right(name, request):
    words = ["bash", str(CASES / name / "cmd.sh"), sys.executable]
    if "BASE" in (CASES / name / "cmd.sh").read_text() or "server.sh" in (CASES / name / "cmd.sh").read_text():
        words.append(str(request.getfixturevalue("published_sample") / "serving"))
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert RIGHT[name](run.stdout), run.stdout + run.stderr


def test_every_case_is_known():
    # That one imports a module of an older layout; tests/models/test_yaml_file.py has its like.
    assert {path.name for path in CASES.iterdir() if path.is_dir()} == {*RIGHT, "yaml-duplicate-key"}
