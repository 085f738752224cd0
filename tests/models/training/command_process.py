"""Runs of the real commands in processes of their own, on a dataset of seconds."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from beam_pipelines.format.location import Location, entries, is_remote
from tests.models.tiny_dataset import TinyDataset

_PATIENCE = 600  # seconds; a machine may be busy

STEPS = 7  # per epoch, of the 125 training pages of `write_taste_dataset`

_OPTIONS = {
    "image_size": "[16, 16]",
    "encoder.embedding_dim": 8,
    "batch_size": 16,
    "validation_share": 0.2,
    "optimizer.learning_rate": 0.01,
    "checkpoint_minutes": 0,
}


def encoder(drop_path: float = 0.0) -> str:
    """The value of `encoder.backbone`."""
    depth = 2 if drop_path else 1  # the first block is never left out
    return f"{{name: convnet, widths: [8], depths: [{depth}], kernel: 3, grid: [2, 2], drop_path: {drop_path}}}"


def arguments(dataset: Location | str, output: Location, **changes) -> list[str]:
    """Arguments of `models.pretrain`; `changes` are configured values, with `__` for `.`."""
    values = _OPTIONS | {key.replace("__", "."): value for key, value in changes.items()}
    options = [argument for key, value in values.items() for argument in ("--set", f"{key}={value}")]
    return ["--data", str(dataset), "--output", str(output), *options]


def ranker_arguments(tiny: TinyDataset, output: Location, dropout: float = 0.2, **changes) -> list[str]:
    """Arguments of `models.train_ctr` on a dataset of `write_tiny_dataset`.

    Args:
        tiny: the dataset.
        output: the run directory.
        dropout: of IDs.
        **changes: configured values.
    """
    item = f"{{item_id: {{type: id, min_count: 2, dropout: {dropout}}}, category: {{type: category, match: true}}}}"
    values = {
        "batch_size": 16,
        "checkpoint_minutes": 0,
        "ranker.mlp_units": "[8]",
        "ranker.lengths.pay": 0,
        "ranker.lengths.cart": 0,
        "ranker.features.candidate": "{impressions_7d: {type: number, transform: log}}",
        "ranker.features.item": item,
        "ranker.features.user": f"{{user_id: {{type: id, dropout: {dropout}, match: false}}}}",
    } | {key.replace("__", "."): value for key, value in changes.items()}
    options = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return [*map(str, ("--data", tiny.data, "--clusters", tiny.clusters, "--output", output)), *options]


def start(
    arguments: list[str],
    workers: list[str] | None = None,
    index: int = 0,
    module: str = "models.pretrain",
    machine: Path | None = None,
) -> subprocess.Popen:
    """Starts a command, as one of several workers if their addresses are given.

    Args:
        arguments: of the command.
        workers: the addresses.
        index: which of them it is.
        module: the command.
        machine: a directory that stands for its machine: its home, scratch files and copies of what is remote.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("TF_CONFIG", "COURIER_CACHE")}
    if machine is not None:
        (machine / "tmp").mkdir(parents=True, exist_ok=True)
        environment |= {"HOME": str(machine), "TMPDIR": str(machine / "tmp")}
    if workers:
        task = {"type": "worker", "index": index}
        environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def checkpoints_of(output: Location) -> Location:
    """Where the command keeps them."""
    return output.with_name(f"{output.name}.checkpoints")


def steps_on_disk(output: Location) -> list[int]:
    """The steps of the checkpoints, in order; of a store, if that is where they are."""
    directory = checkpoints_of(output)
    files = entries(directory) if is_remote(directory) else directory.glob("step-*.npz")
    return sorted(int(path.stem.removeprefix("step-")) for path in files if path.suffix == ".npz")


def interrupt(process: subprocess.Popen, output: Location, step: int, sent: signal.Signals) -> None:
    """Sends a signal when the checkpoint of `step`, or a later one, is on disk."""
    deadline = time.monotonic() + _PATIENCE
    while not (found := steps_on_disk(output)) or found[-1] < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(sent)


def terminate_at(output: Location, step: int) -> None:
    """Sends SIGTERM to this process when the checkpoint of `step`, or a later one, is on disk."""
    deadline = time.monotonic() + _PATIENCE
    while (not (found := steps_on_disk(output)) or found[-1] < step) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGTERM)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    printed, errors = process.communicate(timeout=_PATIENCE)
    return process.returncode, printed, errors


def start_two(
    *commands: tuple[str, list[str]], machines: Sequence[Path | None] = (None, None)
) -> list[subprocess.Popen]:
    """Starts two workers over loopback that run commands, modules and arguments, one after the other.

    Args:
        commands: the same in both.
        machines: of each worker, see `start`.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    words = [json.dumps(commands)]
    return [
        start(words, addresses, index, "tests.models.training.command_sequence", machines[index]) for index in range(2)
    ]


def parts_of(printed: str) -> list[tuple[int, str]]:
    """Exit codes and output of all commands of `start_two` but the last one, whose exit code is the process'."""
    pieces = re.split(r"^== (\d+)\n", printed, flags=re.MULTILINE)
    return list(zip(map(int, pieces[1::2]), pieces[:-1:2], strict=True))
