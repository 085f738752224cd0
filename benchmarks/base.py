"""What every benchmark repeats: options, the peers' environments, the machine, and the result as a file.

Nothing but the standard library and the errors of the project is used here.
"""

import argparse
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import finite, write_json
from benchmarks.catalogue import BENCHMARKS, Benchmark

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
WORK = Path("artifacts/benchmarks")
"""Where benchmarks keep what takes long to make."""

_CORES = 2


def benchmark_parser(description: str | None, quick: str) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks.

    Args:
        description: the docstring of the benchmark's module.
        quick: what `--quick` leaves out.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--output", type=Path, help="the result's file (default: benchmarks/results/NAME.json; quick/NAME.json there)"
    )
    return parser


def run_benchmark(name: str, parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], dict]) -> None:
    """Measures, writes the result and prints it as the last line.

    Args:
        name: of the benchmark in the catalogue.
        parser: with the options of the benchmark.
        measure: from the options to the figures.
    """
    benchmark = BENCHMARKS[name]
    options = parser.parse_args()
    missing = [each for each in benchmark.environments if not peer_python(each).exists()]
    if missing:
        sys.exit(f"error: no environment of the peers {', '.join(missing)}; run make bench-env")
    start = time.monotonic()
    try:
        figures = measure(options)
    except InputError as error:
        sys.exit(f"error: {error}")
    result = {
        "name": name,
        "shows": benchmark.shows,
        "peer": ", ".join(peer_versions(benchmark)),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "command": shlex.join(["python", "-m", benchmark.module, *sys.argv[1:]]),
        "seconds": round(time.monotonic() - start),
        "figures": _rounded(figures),
        "remarks": [],
    }
    path = options.output or (RESULTS / "quick" if options.quick else RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    print(json.dumps(finite(result), ensure_ascii=False, allow_nan=False))


def peer_python(environment: str) -> Path:
    """The interpreter of an environment of `make bench-env`."""
    return ROOT / f".venv-{environment}/bin/python"


def peer_command(environment: str, module: str, *arguments: object) -> list[str]:
    """The command that runs a peer's module in its environment, in the directory `ROOT`."""
    return [str(word) for word in (peer_python(environment), "-m", module, *arguments)]


def peer_versions(benchmark: Benchmark) -> list[str]:
    """The peers with their versions: those that the environments pin, or that are installed here."""
    pinned: dict[str, str] = {}
    for path in sorted((ROOT / "benchmarks").glob("requirements*.txt")):
        pinned |= dict(re.findall(r"^([\w-]+)==(\S+)", path.read_text(), re.MULTILINE))
    return [f"{peer} {_installed(peer) if not benchmark.environments else pinned[peer]}" for peer in benchmark.peers]


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


def use_two_cores() -> None:
    """Keeps this process, and those that it starts from now on, on the first two cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CORES])


def machine() -> str:
    """The processor, the cores that this process may use, and the memory."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1].strip() if found else platform.machine()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    return f"{processor}, {cores} {'core' if cores == 1 else 'cores'}, {gigabytes:.0f} GB"


def commit() -> str:
    """The commit of the checkout, with `+` where files differ from it; `unknown` outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def run_module(module: str, *arguments: object, log: Path) -> None:
    """Runs a command of the project; its output goes to a file."""
    words: Sequence[str] = [sys.executable, "-m", module, *map(str, arguments)]
    with open(log, "w") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise InputError(f"{module} failed; {log} ends with: {log.read_text().strip().splitlines()[-1]}")


def make_once(path: Path, make: Callable[[], object]) -> Path:
    """A file or directory, made if it is not there: by the first process that asks for it, while others wait."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f"{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make()
    return path


def set_options(overrides: Iterable[str]) -> list[str]:
    """`KEY=VALUE` of a configuration as words of a command line."""
    return [word for override in overrides for word in ("--set", override)]


def peak_memory_mb() -> float:
    """The largest resident size of this process so far: not of getrusage, which begins with its parent's."""
    return status_mb("VmHWM")


def status_mb(field: str, process: str | int = "self") -> float:
    """A size from `/proc/PROCESS/status`, in MB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    if found is None:
        raise InputError(f"/proc/{process}/status says nothing of {field}")
    return int(found[1]) / 1e3


def _rounded(value: Any) -> Any:
    """Floats with four significant digits, in dictionaries and lists too."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
