"""A published version in TensorFlow for Java: no Python, no code of ours, another TensorFlow (`make test-java`)."""

import shutil
import subprocess
from pathlib import Path

import pytest

from export.version.recorded_requests import read_golden, write_golden

JAR = Path(__file__).resolve().parents[1] / "java" / "target" / "golden-replay.jar"

pytestmark = [
    pytest.mark.java,
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java runtime"),
    pytest.mark.skipif(not JAR.is_file(), reason="no golden-replay.jar: `make test-java` makes it with Maven"),
]


def replay(version):
    # TensorFlow's native libraries are unpacked once, beside the jar.
    command = ["java", f"-Dorg.bytedeco.javacpp.cachedir={JAR.parent / 'javacpp'}", "-jar", str(JAR), str(version)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def golden_version(path, version, change):
    """A copy of a version, with its golden requests changed."""
    shutil.copytree(version, path)
    write_golden(path, change(read_golden(version)))
    return path


def test_golden_requests_have_the_recorded_scores(toy_base_path):
    result = replay(toy_base_path / "11")
    assert result.returncode == 0, result.stdout + result.stderr
    serving_default, tf_example, closing = result.stdout.splitlines()
    assert serving_default.startswith("serving_default: 12 requests, largest difference ")
    assert tf_example.startswith("tf_example: 12 requests, largest difference ")
    assert f"{toy_base_path / '11'}: 24 golden requests in TensorFlow " in closing
    assert closing.endswith(", the recorded scores")


def test_another_score_is_a_failure(toy_base_path, tmp_path):
    def change(golden):
        golden[4].outputs["ctr"][0, 0] += 3e-6  # a request of `serving_default`
        return golden

    result = replay(golden_version(tmp_path / "1", toy_base_path / "11", change))
    assert result.returncode == 1
    serving_default, tf_example, closing = result.stdout.splitlines()
    assert float(serving_default.split("difference ")[1]) > 2e-6
    assert float(tf_example.split("difference ")[1]) <= 1e-6
    assert closing.endswith(", NOT the recorded scores")


def test_nothing_recorded_is_a_failure(toy_base_path, tmp_path):
    result = replay(golden_version(tmp_path / "1", toy_base_path / "11", lambda golden: []))
    assert result.returncode == 1
    assert result.stdout.startswith(f"{tmp_path / '1'}: 0 golden requests in ")
