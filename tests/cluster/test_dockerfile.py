"""The environment of the worker image, built by the commands of the `Dockerfile` without Docker."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.cluster.conftest import ROOT, build
from tests.cluster.test_builds import OPTIONS, contents, succeeded

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The Python of an environment that holds what the image holds."""
    root = tmp_path_factory.mktemp("image")
    python, directory = root / "python", root / "courier-ranking"
    directory.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
    lines = (ROOT / "beam_pipelines/Dockerfile").read_text().replace("\\\n", "").splitlines()
    for line in lines:
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":  # the base image is this Python with this Beam
            version, beam = re.fullmatch(r"apache/beam_python([0-9.]+)_sdk:([0-9.]+)", rest).groups()
            assert version == f"{sys.version_info.major}.{sys.version_info.minor}"
            _run(python, f"pip install --quiet apache-beam=={beam}", root)
        elif instruction == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, directory / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, directory / target)
        elif instruction == "RUN":
            _run(python, rest, directory)
    shutil.rmtree(directory)  # nothing is left to import but what was installed
    return python / "bin" / "python"


def _run(environment, command, directory):
    program, *arguments = shlex.split(command)
    subprocess.run([str(environment / "bin" / program), *arguments], check=True, cwd=directory, capture_output=True)


def test_the_image_builds_the_same_bytes_without_tensorflow(image, small_logs, tmp_path):
    """In process, with the environment of the image."""
    succeeded(build(small_logs, tmp_path / "here", *OPTIONS))
    succeeded(build(small_logs, tmp_path / "image", *OPTIONS, interpreter=str(image), cwd=tmp_path))
    assert contents(tmp_path / "image") == contents(tmp_path / "here") != {}
    found = subprocess.run([str(image), "-c", "import tensorflow"], capture_output=True, text=True, cwd=tmp_path)
    assert "ModuleNotFoundError" in found.stderr
