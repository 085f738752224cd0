"""Builds on Flink and on Spark whose machines share nothing but an object store."""

import contextlib
import datetime
import subprocess
import sys
import time

import pytest

from beam_pipelines.format.contents import Contents
from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.local_copy import local_copy
from beam_pipelines.format.location import as_location
from beam_pipelines.format.outputs import sweep
from tests.cluster.conftest import ROOT, build

pytestmark = pytest.mark.cluster
OPTIONS = ("--page-buckets", "4", "--image-side", "32")


def contents(directory):
    return {str(path.relative_to(directory)): file_sha256(path) for path in directory.rglob("*") if path.is_file()}


def committed(uri):
    """The files of a dataset in the store, as a reader gets them."""
    files = contents(local_copy(as_location(uri)))
    return {path: digest for path, digest in files.items() if not path.startswith(".")}


def succeeded(done):
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done


@pytest.fixture(scope="module")
def expected(sample, tmp_path_factory):
    """What a build in process makes of the sample, on a local disk."""
    output = tmp_path_factory.mktemp("in_process") / "dataset"
    succeeded(build(sample, output, *OPTIONS))
    return contents(output)


@pytest.fixture
def output(store, request):
    return f"{store.bucket}/datasets/{request.node.name.replace('[', '-').strip(']')}"


@pytest.mark.parametrize("engine", ["portable", "flink", "spark"])
def test_a_cluster_builds_the_same_bytes(engine, request, sample, expected, output):
    cluster = request.getfixturevalue(engine)
    succeeded(build(sample, output, *OPTIONS, runner=cluster.runner, beam_options=cluster.beam_options))
    assert committed(output) == expected


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_real_logs_on_a_cluster(engine, request, kuairand, output, tmp_path):
    cluster = request.getfixturevalue(engine)
    options = ("--split-by-time", "2022-04-24,2022-05-04", "--page-buckets", "4")
    succeeded(build(kuairand, tmp_path / "dataset", *options))
    succeeded(build(kuairand, output, *options, runner=cluster.runner, beam_options=cluster.beam_options))
    assert committed(output) == contents(tmp_path / "dataset")


@pytest.mark.parametrize(("engine", "way"), [("flink", "uber_jar"), ("flink", "job_server"), ("spark", "job_server")])
def test_nobody_waits_and_the_last_step_commits(engine, way, request, sample, expected, output):
    cluster = request.getfixturevalue(engine)
    if way == "uber_jar":
        runner, options = cluster.runner, [*cluster.beam_options, f"--{engine}_submit_uber_jar"]
    else:
        runner = "PortableRunner"
        options = [f"--job_endpoint={cluster.standing_job_server()}", *cluster.worker_options]
    told = succeeded(build(sample, output, *OPTIONS, "--no_wait_until_finish", runner=runner, beam_options=options))
    assert told.stdout.splitlines()[-1].startswith(f"submitted: the dataset will appear in {output} [")
    location, deadline = as_location(output), time.monotonic() + 300
    while Contents.read(location) is None:
        assert time.monotonic() < deadline, f"nothing was committed; {cluster.logs} has the logs"
        time.sleep(0.5)
    assert committed(output) == expected


def test_a_store_that_fails_now_and_then_changes_nothing(flink, store, sample, expected, output):
    store.behave("fail_every=50")
    succeeded(build(sample, output, *OPTIONS, runner=flink.runner, beam_options=flink.beam_options))
    assert store.behave()["failed"] > 0
    assert committed(output) == expected


def test_a_store_that_refuses_all_is_told_in_one_line(flink, store, sample, output):
    store.behave("refuse=1")
    done = build(sample, output, *OPTIONS, runner=flink.runner, beam_options=flink.beam_options)
    store.behave()
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert store.bucket in done.stderr.strip().splitlines()[-1]
    assert not as_location(output).exists()


def test_of_two_builds_into_one_output_one_wins(store, sample, expected, output):
    command = [sys.executable, "-m", "beam_pipelines.build", "--logs", sample, "--output", output, *OPTIONS]
    builds = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ended = [(each.communicate(timeout=300), each.returncode) for each in builds]
    assert sorted(code for _, code in ended) == [0, 2], ended
    ((_, told),) = (texts for texts, code in ended if code)
    assert "Traceback" not in told
    assert output in told.strip().splitlines()[-1]
    assert committed(output) == expected


def test_a_machine_lost_while_shards_are_written(flink, sample, expected, output):
    """The last machine goes down with its workers as soon as the first shard is there; another takes its place."""
    command = [sys.executable, "-m", "beam_pipelines.build", "--logs", sample, "--output", output, *OPTIONS]
    process = subprocess.Popen(
        [*command, f"--runner={flink.runner}", *flink.beam_options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        location = as_location(output)
        while process.poll() is None and not _written(location):
            time.sleep(0.05)
        assert process.poll() is None, "the build ended before a machine could be lost"
        flink.machines.pop().kill()
        flink.add_machine(13)
        _, errors = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-6000:]
    assert committed(output) == expected
    sweep(location, older_than=datetime.timedelta(0))
    attempts = [path for path in location.iterdir() if path.name.startswith("attempt-")]
    assert len(attempts) == 1


def _written(location):
    with contextlib.suppress(OSError):
        location.fs.invalidate_cache()
        found = location.fs.find(location.path)
        return any("/pages/" in path for path in found)
    return False
