import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from beam_pipelines.format.errors import InputError
from benchmarks import base
from benchmarks.base import benchmark_parser, make_once, peer_versions, run_benchmark
from benchmarks.catalogue import BENCHMARKS


def run(monkeypatch, measure, *arguments):
    monkeypatch.setattr(sys, "argv", ["-m", *arguments])
    run_benchmark("pictures_sample", benchmark_parser("What it does.", quick="little"), measure)


def test_a_result_is_a_file_and_the_last_line(monkeypatch, tmp_path, capsys):
    path = tmp_path / "results" / "ours.json"

    def measure(options: argparse.Namespace) -> dict:
        print(f"quick: {options.quick}")
        return {"auc": 0.123456789, "seeds": 3, "by_part": {"all": [0.98765432, None]}}

    run(monkeypatch, measure, "--quick", "--output", str(path))
    first, *_, last = capsys.readouterr().out.splitlines()
    result = json.loads(path.read_text())
    assert first == "quick: True"
    assert json.loads(last) == result
    assert result["figures"] == {"auc": 0.1235, "seeds": 3, "by_part": {"all": [0.9877, None]}}
    assert result["command"] == f"python -m benchmarks.pictures.sample --quick --output {path}"
    assert result["shows"] == BENCHMARKS["pictures_sample"].shows
    assert " core" in result["machine"]


def test_a_quick_result_does_not_replace_a_full_one(monkeypatch, tmp_path):
    monkeypatch.setattr(base, "RESULTS", tmp_path)
    run(monkeypatch, lambda _: {"full": True})
    run(monkeypatch, lambda _: {"full": False}, "--quick")
    full, quick = (
        json.loads((tmp_path / name).read_text()) for name in ("pictures_sample.json", "quick/pictures_sample.json")
    )
    assert full["figures"] == {"full": True}
    assert quick["figures"] == {"full": False}


def test_what_the_user_can_mend_is_one_line(monkeypatch, tmp_path):
    def measure(_: argparse.Namespace) -> dict:
        raise InputError("`source`: no directory")

    with pytest.raises(SystemExit, match="error: `source`: no directory"):
        run(monkeypatch, measure, "--output", str(tmp_path / "ours.json"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_every_peer_has_a_version(benchmark):
    assert [version.partition(" ")[0] for version in peer_versions(benchmark)] == list(benchmark.peers)


def test_the_list_and_an_unknown_name():
    command = [sys.executable, "-m", "benchmarks"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(BENCHMARKS)
    refused = subprocess.run([*command, "nothing"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no benchmark nothing" in refused.stderr


def test_what_several_ask_for_at_once_is_made_once(tmp_path):
    path = tmp_path / "work" / "logs"
    made = []

    def make():
        made.append(path.exists())
        time.sleep(0.05)  # the others ask meanwhile
        path.mkdir()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: make_once(path, make), range(4))) == [path] * 4
    assert made == [False]


def test_what_could_not_be_made_is_made_the_next_time(tmp_path):
    with pytest.raises(InputError):
        make_once(tmp_path / "logs", lambda: base.run_module("benchmarks.none", log=tmp_path / "log"))
    assert make_once(tmp_path / "logs", (tmp_path / "logs").mkdir).is_dir()
