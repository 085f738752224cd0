import re
import subprocess
from pathlib import Path

from export.daily import STEPS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_makefile_does_the_steps_of_a_day_in_their_order():
    command = [
        "make",
        "--dry-run",
        "--no-print-directory",
        "--file",
        EXAMPLES / "daily.mk",
        "DAY=2026-03-09",
        "LOGS=my logs",
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert all("-m export.daily --logs my logs --day 2026-03-09 --state artifacts/daily" in line for line in lines)
    until = [re.search(r"--until (\w+)", line) for line in lines]
    assert [found and found[1] for found in until] == [*STEPS[:-1], None]
