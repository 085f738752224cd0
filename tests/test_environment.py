"""The pinned packages load together, and the packages of the project keep to their layers."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What TensorFlow 2.17's wheel itself says on any machine without a GPU; none of it is about the packages under test.
TENSORFLOW_START_UP = re.compile(
    r"^\d{4}-\d\d-\d\d .*(oneDNN custom|Could not find (cuda|TensorRT)|Unable to register cu|optimized to use)"
    r"|^To enable the following instructions|^WARNING: All log messages before absl"
)


@pytest.mark.parametrize("package", ["tensorflow_recommenders", "tensorflow_io", "keras_cv", "scann"])
def test_package_loads_without_a_complaint(package):
    # tensorflow_io loads its libraries on first use: use them.
    code = f"import {package}" + ("; tensorflow_io.image.decode_webp" if package == "tensorflow_io" else "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    complaints = [line for line in done.stderr.splitlines() if line and not TENSORFLOW_START_UP.search(line)]
    assert (done.returncode, done.stdout, complaints) == (0, "", [])


def imports_of(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield path, node.module


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        ("beam_pipelines", r"(tensorflow|keras|scann|models|export)\b"),
        ("models", r"export\b"),
        # Upwards, only what a dataset is and the conventions of commands are shared.
        ("models", r"beam_pipelines\b(?!\.(format|shell)\b)"),
        ("export", r"beam_pipelines\b(?!\.(format|shell)\b)"),
        ("models", r"tf_keras\b|tensorflow\.keras\b"),
    ],
)
def test_packages_depend_one_way(package, foreign):
    assert [f"{path}: {name}" for path, name in imports_of(package) if re.match(foreign, name)] == []
