"""Builds from and to Google's storage and HDFS, and a model that reads there."""

import json
import subprocess
import sys

import pytest

from tests.cluster.conftest import ROOT, build
from tests.cluster.file_systems import google_storage, hdfs

pytestmark = pytest.mark.cluster
OPTIONS = ("--page-buckets", "4", "--image-side", "32")

# In a process of its own: only there is the package for Google's storage.
_FILES = """
import json, sys
from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.local_copy import local_copy
from beam_pipelines.format.location import as_location
directory = local_copy(as_location(sys.argv[1]))
files = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")]
print(json.dumps({str(path.relative_to(directory)): file_sha256(path) for path in files}))
"""


def run(*command):
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


@pytest.fixture(params=["gs", "webhdfs"])
def root(request, tmp_path, monkeypatch):
    monkeypatch.setenv("COURIER_CACHE", str(tmp_path / "cache"))
    with google_storage(tmp_path, monkeypatch) if request.param == "gs" else hdfs(tmp_path) as uri:
        yield uri


def test_a_build_and_a_model_are_at_home_there(root, small_logs, tmp_path):
    """The same bytes as on the disk, a second build refused and a third that replaces; a ranker's run."""
    assert build(small_logs, tmp_path / "dataset", *OPTIONS).returncode == 0
    size = ["--photos", "100", "--users", "80", "--pages", "600"]
    run("-m", "beam_pipelines.datasets.sample", f"--output={root}/logs", *size)  # as `small_logs`
    output = f"{root}/datasets/one"
    done = build(f"{root}/logs", output, *OPTIONS)
    assert done.returncode == 0, done.stderr[-6000:]
    expected = json.loads(run("-c", _FILES, str(tmp_path / "dataset")))
    assert json.loads(run("-c", _FILES, output)) == expected
    again = build(f"{root}/logs", output, *OPTIONS)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1] == f"error: {output} exists; pass --overwrite to replace it"
    assert build(f"{root}/logs", output, *OPTIONS, "--overwrite").returncode == 0
    assert json.loads(run("-c", _FILES, output)) == expected
    ranker, report = f"{root}/runs/ranker", tmp_path / "report"
    run("-m", "models.train_ctr", f"--data={output}", "--image-feature=none", f"--output={ranker}", "--set", "epochs=1")
    evaluated = run("-m", "models.evaluate", f"--data={output}", f"--model={ranker}", f"--output={report}")
    assert "ranker" in evaluated
