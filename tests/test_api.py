"""The front doors: what `from models import ...`, and likewise from the other packages, gives."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import beam_pipelines
import export
import models
from tests.conftest import make_once

ROOT = Path(__file__).resolve().parents[1]
HELP_FILES = sorted((ROOT / "tests" / "help").glob("*.txt"))
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


@pytest.mark.parametrize(
    "name",
    ["embed", "whiten", "cluster", "evaluate", "pretrain", "finetune", "train_retrieval", "join_rankers"],
)
def test_a_function_keeps_its_name_beside_the_command_of_that_name(name):
    function = getattr(models, name)
    command = importlib.import_module(f"models.{name}")
    assert callable(function)
    assert callable(command.main)
    assert getattr(models, name) is function


# Each command imports our modules afresh; what others it imports must be none of the slow ones.
HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
help_texts = {}
for name in sys.argv[1:]:
    for module in [m for m in sys.modules if m.split(".")[0] in ("beam_pipelines", "models", "export")]:
        del sys.modules[module]
    sys.argv = [name, "--help"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    slow = sorted(set(sys.modules) & {"tensorflow", "keras", "apache_beam", "scann"})
    help_texts[name] = {"out": out.getvalue(), "err": err.getvalue(), "slow": slow}
    for module in slow:  # so that the next command is not blamed for it
        del sys.modules[module]
print(json.dumps(help_texts))
"""


@pytest.fixture(scope="session")
def help_texts(work):
    """What each command prints and imports for `--help`."""

    def make(path):
        names = [path.stem for path in HELP_FILES]
        environment = {**os.environ, "COLUMNS": "120"}
        command = [sys.executable, "-c", HELP_OF_ALL, *names]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        Path(path).write_text(done.stdout)

    return json.loads(make_once(work / "help_texts.json", make).read_text())


@pytest.mark.parametrize("path", HELP_FILES, ids=lambda path: path.stem)
def test_help_of_a_command_is_quick_and_as_recorded(help_texts, path):
    printed = help_texts[path.stem]
    cores = f"(default: {os.cpu_count()})"
    assert printed["out"].replace("(default: 2)", cores) == path.read_text().replace("(default: 2)", cores)
    assert (printed["err"], printed["slow"]) == ("", [])
