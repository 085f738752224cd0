"""The pinned packages load together."""

import re
import subprocess
import sys

# What TensorFlow 2.17's wheel itself says on any machine without a GPU; none of it is about the packages under test.
TENSORFLOW_START_UP = re.compile(
    r"^\d{4}-\d\d-\d\d .*(oneDNN custom|Could not find (cuda|TensorRT)|Unable to register cu|optimized to use)"
    r"|^To enable the following instructions|^WARNING: All log messages before absl"
)
USE = {
    "tensorflow_recommenders": "",
    "tensorflow_io": "tensorflow_io.image.decode_webp",  # loads its libraries on first use
    "keras_cv": "",
    "scann": "",
}


def test_packages_load_without_a_complaint():
    lines = ["import sys"]
    for package, use in USE.items():
        lines += [f"print('loading {package}', file=sys.stderr, flush=True)", f"import {package}", use]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
    _, *sections = re.split(r"^loading (\w+)\n", done.stderr, flags=re.MULTILINE)
    complaints = {
        package: [line for line in text.splitlines() if line and not TENSORFLOW_START_UP.search(line)]
        for package, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert (done.returncode, done.stdout, complaints) == (0, "", {package: [] for package in USE})
