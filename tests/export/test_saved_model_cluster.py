"""From a ranker's run on an S3 to a server that follows a base path there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from beam_pipelines.format.location import as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import CommandError
from export import endpoint_check, saved_model, trusted_digests
from export.server.endpoint import Listening

pytestmark = pytest.mark.cluster


def test_versions_are_published_to_a_store_and_served_from_it(s3_server, toy_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURIER_CACHE", str(tmp_path / "cache"))
    run, base_path = f"{s3_server}/serving/run", f"{s3_server}/serving/ranker"
    with whole_directory(as_location(run)) as scratch:
        shutil.copytree(toy_run.path, scratch, dirs_exist_ok=True)
    publish = ["--model", run, "--base-path", base_path, "--skew-pages", "3"]
    assert saved_model.main(publish).startswith(f"version 1 in {base_path}/1: passed all gates, differs by ")
    assert endpoint_check.main(["--model", run, "--base-path", base_path]).startswith(
        f"endpoint of {base_path} answers"
    )
    capsys.readouterr()
    trusted_digests.main([f"{base_path}/1"])
    assert re.fullmatch(rf"[0-9a-f]{{64}}  {base_path}/1\n", capsys.readouterr().out)

    # Who writes while somebody else reads is not there until its last file.
    (as_location(base_path) / "2" / "variables" / "variables.index").write_text("half")
    command = [sys.executable, "-m", "export.serve", "--base-path", base_path, "--poll-seconds", "0.2"]
    command += ["--port", "0", "--rest-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        alarm = threading.Timer(300, process.kill)
        alarm.start()
        try:
            listening = Listening.from_line(process.stdout.readline())
            assert listening.version == 1
            assert saved_model.main(publish).startswith(f"version 3 in {base_path}/3: ")
            deadline = time.monotonic() + 200
            while not _serves(listening, 3):
                assert time.monotonic() < deadline
                time.sleep(0.5)
            os.kill(process.pid, signal.SIGTERM)
            out, err = process.communicate()
        finally:
            alarm.cancel()
            process.kill()
    assert (process.returncode, out.splitlines()[-1].split(" [")[0]) == (
        0,
        f"stopped serving ranker version 3 from {base_path}",
    ), err
    assert "Traceback" not in err


def test_a_bucket_that_is_not_there_is_one_line_before_any_work(s3_server, toy_run):
    with pytest.raises(CommandError) as refused:
        saved_model.main(["--model", str(toy_run.path), "--base-path", "s3://no-such-bucket/ranker"])
    assert str(refused.value).startswith("--base-path: s3://no-such-bucket/ranker: ")
    assert "\n" not in str(refused.value)


def _serves(listening, version):
    with urllib.request.urlopen(listening.rest) as response:
        states = json.load(response)["model_version_status"]
    return any(state["version"] == str(version) and state["state"] == "AVAILABLE" for state in states)
