"""Two days of work, killed in and after every step, end with the ledger of two days that nobody killed."""

import json
import random
import subprocess
import sys
import time

import pytest

from export.daily import STEPS
from export.daily.ledger import LEDGER_FILE, Ledger
from export.version.base_path import published_versions
from tests.export.daily.conftest import day

pytestmark = pytest.mark.kill


def command(shop, at, number):
    options = shop.options
    words = [sys.executable, "-m", "export.daily", "--logs", shop.logs(number), "--day", day(number)]
    words += ["--state", at / "state", "--base-path", at / "serving", "--skew-pages", 5]
    for name in ("data", "encoder", "embeddings", "clusters", "model"):
        words += [f"--{name}", getattr(options, name)]
    for bound in ("min_pages=20", "min_slice_pages=20"):
        words += ["--bound", bound]
    return [str(word) for word in words]


def run_and_kill(words, record, seconds):
    """Kills a command some time after a step is on record; true if it came to its end before."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not record.exists():
            time.sleep(0.01)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
        assert process.returncode == 0, process.stderr.read()
        return True


def test_killed_in_every_step_a_day_ends_the_same(shop, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    chance = random.Random(0)
    kills = 0
    for number in (0, 1):
        subprocess.run(command(shop, whole, number), check=True, stdout=subprocess.DEVNULL)
        words = command(shop, killed, number)
        for step in ("begin", *STEPS):
            name = "options.json" if step == "begin" else f"steps/{step}.json"
            record = killed / "state" / "days" / str(day(number)) / name
            longest = json.loads((whole / "state" / "days" / str(day(number)) / "steps/publish.json").read_text())
            for seconds in (0.0, chance.uniform(0, longest["seconds"])):
                kills += not run_and_kill(words, record, seconds)
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        ledgers = [(at / "state" / LEDGER_FILE).read_bytes() for at in (whole, killed)]
        assert ledgers[0] == ledgers[1]
    assert kills > 20
    assert len(Ledger(killed / "state")) == 2
    assert published_versions(whole / "serving").keys() == published_versions(killed / "serving").keys()
    print(f"killed {kills} times")
