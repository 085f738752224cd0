"""What `pip wheel .` packs: everything that the commands need outside a checkout."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from beam_pipelines.shell.console import COMMANDS, script_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("beam_pipelines", "models", "export")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources: a build leaves folders behind. No network is needed."""
    sources, wheels = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(wheels), str(sources)], check=True, timeout=120)
    (path,) = wheels.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_every_file_of_a_package(wheel, package):
    files = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {str(path.relative_to(ROOT)) for path in files} - set(wheel.namelist()) == set()


def test_every_command_has_a_console_script(wheel):
    (path,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(path).decode())
    commands = sorted(path.stem for path in (ROOT / "tests" / "help").glob("*.txt"))
    assert sorted(COMMANDS) == commands
    assert dict(entry_points["console_scripts"]) == {
        script_name(module): "beam_pipelines.shell.console:main" for module in COMMANDS
    }


def test_a_console_script_is_its_command(tmp_path):
    script = tmp_path / "courier-trusted-digests"
    script.write_text("from beam_pipelines.shell.console import main\nmain()\n")
    help_texts = [
        subprocess.run(
            [sys.executable, *words, "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for words in ([str(script)], ["-m", "export.trusted_digests"])
    ]
    assert help_texts[0] == help_texts[1] != ""
