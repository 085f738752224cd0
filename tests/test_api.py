"""The front doors: what `from models import ...`, and likewise from the other packages, gives."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import beam_pipelines
import export
import models

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("tensorflow", "keras", "apache_beam", "scann", "grpc", "pyarrow", "numpy")


@pytest.mark.parametrize("package", [beam_pipelines, models, export], ids=lambda package: package.__name__)
def test_every_public_name_is_there_with_a_docstring(package):
    for name in package.__all__:
        public = getattr(package, name)
        assert public.__name__ == name
        assert public.__doc__
        assert public.__module__.startswith((f"{package.__name__}.", "beam_pipelines."))
        assert name in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_importing_the_packages_imports_nothing_heavy_and_changes_no_logger():
    code = f"""
import logging, sys
root = logging.getLogger()
before = (list(root.filters), list(root.handlers), root.level, dict(logging.Logger.manager.loggerDict))
import beam_pipelines, models, export
after = (list(root.filters), list(root.handlers), root.level, dict(logging.Logger.manager.loggerDict))
print(before == after, sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("True []\n", "")


@pytest.mark.parametrize("name", ["embed", "whiten", "cluster", "evaluate", "pretrain"])
def test_a_function_keeps_its_name_beside_the_command_of_that_name(name):
    function = getattr(models, name)
    command = importlib.import_module(f"models.{name}")
    assert callable(function)
    assert callable(command.main)
    assert getattr(models, name) is function


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "help").glob("*.txt")), ids=lambda path: path.stem)
def test_help_of_a_command_is_quick_and_as_recorded(path):
    code = f"""
import runpy, sys
sys.argv = ["{path.stem}", "--help"]
try:
    runpy.run_module("{path.stem}", run_name="__main__", alter_sys=True)
finally:
    print(sorted(set(sys.modules) & {{"tensorflow", "keras", "apache_beam", "scann"}}), file=sys.stderr)
"""
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    recorded = path.read_text().replace("(default: 2)", f"(default: {os.cpu_count()})")
    assert done.stdout.replace("(default: 2)", f"(default: {os.cpu_count()})") == recorded
    assert done.stderr == "[]\n"
