"""The pinned packages load together."""

import re
import subprocess
import sys

import pytest

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
