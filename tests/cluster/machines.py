"""Machines of a cluster in a box: each has a network address and a root of its own, as a container has.

A machine is a Linux network namespace with a link to a bridge, and a mount namespace whose root holds an empty `/tmp`
and, read-only, the system, this Python and the packages: no disk that two of them could share. All of it vanishes with
the last of its processes.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

BRIDGE = "courier0"
HOST = "10.213.77.1"
"""The address of the machine that tests run on: it submits builds and holds the object store."""

NAMES = f"127.0.0.1 localhost\n{HOST} {socket.gethostname()}\n"
"""The hosts file of all machines: this one's name leads to it."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", sys.base_prefix, sys.prefix)
"""What each machine sees of this one's disk, beside what it is given."""

_ROOT = """
set -e
read -r go
root=/mnt
mount -t tmpfs tmpfs $root
for path in $SEEN; do
    mkdir -p $root$path
    mount --bind $path $root$path
    mount -o remount,bind,ro $root$path
done
mkdir -p $root/tmp $root/dev $root/proc
mount --rbind /dev $root/dev
mount -t tmpfs tmpfs $root/dev/shm
mount --rbind /proc $root/proc
printf "$NAMES" > $root/tmp/hosts
mount --bind $root/tmp/hosts $root/etc/hosts
ip link set lo up
cd $root
"""


def why_not() -> str | None:
    """Says why machines cannot be made here, if so."""
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    tried = subprocess.run(["unshare", "--net", "--mount", "ip", "link"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no network namespaces: {tried.stderr.strip()}"


class Network:
    """The bridge that machines are plugged into. A context manager."""

    def __enter__(self) -> "Network":
        self.__exit__()  # of a run that was killed
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "address", "add", f"{HOST}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)


class Machine:
    """Commands that run in one machine.

    Args:
        number: 2 to 254, unique in the network.
        commands: shell command lines; each runs as a process of its own, until the machine is killed.
        log: what they print.
        environment: added to this process's.
        seen: directories of this machine's disk that it sees, read-only, beside the system and this Python.
    """

    def __init__(
        self, number: int, commands: Sequence[str], log: Path, environment: Mapping[str, str], seen: Sequence[Path]
    ) -> None:
        self.address = HOST.rpartition(".")[0] + f".{number}"
        self.log = log
        self._link = f"courier{number}"
        lines = [f"chroot . sh -c {shlex.quote(command)} &" for command in commands]
        paths = " ".join(path for path in dict.fromkeys([*SYSTEM, *map(str, seen)]) if Path(path).exists())
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--net", "--mount", "--propagation", "private"),
                    *("sh", "-c", "\n".join([_ROOT, *lines, "wait"])),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, "SEEN": paths, "NAMES": NAMES},
                cwd="/",
                start_new_session=True,
            )
        inside = ["nsenter", "--net", "--target", str(self._process.pid)]
        wait_for(lambda: self._has_network_of_its_own(), "a network namespace", self.log)
        _run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self._process.pid))
        _run("ip", "link", "set", self._link, "master", BRIDGE, "up")
        _run(*inside, "ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "eth0", "up")
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes that it received and sent so far."""
        statistics = Path("/sys/class/net", self._link, "statistics")  # of the bridge's end: the other way round
        return int((statistics / "tx_bytes").read_text()), int((statistics / "rx_bytes").read_text())

    def kill(self) -> None:
        """Ends all of its processes at once, as a power cut would."""
        stop(self._process)
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True)

    def _has_network_of_its_own(self) -> bool:
        return os.readlink(f"/proc/{self._process.pid}/ns/net") != os.readlink("/proc/self/ns/net")


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """Starts a server on the machine that tests run on."""
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def start_by_name(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """Starts a server that tells machines to call back by this machine's name, as Beam's portable runner does."""
    hosts = log.with_suffix(".hosts")
    hosts.write_text(NAMES)
    rename = f'mount --bind {shlex.quote(str(hosts))} /etc/hosts; exec "$@"'
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", rename, "sh"]
    return start([*private, *command], log, environment)


def stop(process: subprocess.Popen) -> None:
    """Kills a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(ready: Callable[[], bool], what: str, log: Path, seconds: float = 60) -> None:
    """Waits until something is ready; shows the log if it never is."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {seconds:g} s; {log} ends:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def listens(address: str, port: int) -> bool:
    """Whether somebody answers at an address."""
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def worker_pool() -> str:
    """The command of a pool of Beam's Python workers on port 50000."""
    # The pool starts `python`, whichever is first on the path.
    return (
        f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH "
        f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.worker_pool_main --service_port=50000"
    )


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
