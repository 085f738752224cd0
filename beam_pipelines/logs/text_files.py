"""Opens CSV and JSON lines: decompresses them, and refuses by name what is not UTF-8 text."""

import contextlib
import io
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, is_remote
from beam_pipelines.format.remote_file import BUFFER_BYTES, RemoteFile

BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 1 << 20
"""A longer line, or a longer record of several lines, is no row of a log."""

_SAMPLE_BYTES = 1 << 20
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_WIDE = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@contextlib.contextmanager
def readable(path: Location) -> Iterator[None]:
    """Turns what Arrow raises on a damaged file into an error that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def open_text(path: Location, buffer_bytes: int = BUFFER_BYTES) -> pa.NativeFile:
    """The bytes of a text file, decompressed as its first bytes say; the caller closes it.

    Args:
        path: the file.
        buffer_bytes: of a remote file, what is got at a time.

    Raises:
        InputError: the file is empty.
    """
    if is_remote(path):
        remote = io.BufferedReader(RemoteFile(path), buffer_bytes)
        return pa.input_stream(remote, compression=_compression(path, remote.peek(4)))
    with open(path, "rb") as file:
        head = file.read(4)
    return pa.input_stream(str(path), compression=_compression(path, head), buffer_size=1 << 20)


def _compression(path: Location, head: bytes) -> str | None:
    if not head:
        raise InputError(f"{path} is empty (0 bytes)")
    return next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)


def read_sample(path: Location) -> bytes:
    """The beginning of a text file, cut at a line end if there is more; it may begin with a byte order mark.

    Raises:
        InputError: it is not UTF-8: another encoding is named. Single lines that are not are none of this.
    """
    with open_text(path, _SAMPLE_BYTES + 1) as stream:
        sample = bytes(stream.read(_SAMPLE_BYTES))
        more = bool(stream.read(1))
    if not sample:
        raise InputError(f"{path} is empty")
    encoding = _wide_encoding(sample) or _other_encoding(sample)
    if encoding is not None:
        raise InputError(f"{path} is not UTF-8 but looks like {encoding}; store it as UTF-8")
    if more and (end := max(sample.rfind(b"\n"), sample.rfind(b"\r"))) >= 0:
        sample = sample[: end + 1]
    return sample


def _wide_encoding(sample: bytes) -> str | None:
    for mark, name in _WIDE.items():
        if sample.startswith(mark):
            return name
    zeros = np.frombuffer(sample[:4096], np.uint8) == 0
    shares = [float(zeros[first::4].mean()) if zeros[first::4].size else 0.0 for first in range(4)]
    if sum(share > 0.8 for share in shares) >= 3:
        return "UTF-32"
    if min(shares[0], shares[2]) > 0.4 > max(shares[1], shares[3]) or (
        min(shares[1], shares[3]) > 0.4 > max(shares[0], shares[2])
    ):
        return "UTF-16"
    return None


def _other_encoding(sample: bytes) -> str | None:
    """The encoding of a text most of whose lines beyond ASCII are not UTF-8."""
    if sample.isascii():
        return None
    lines = sample.splitlines()[:20_000]
    foreign = [line for line in lines if not line.isascii()]
    bad = [line for line in foreign if not is_utf8(line)]
    header_is_bad = bool(lines) and not is_utf8(lines[0])
    if not header_is_bad and (len(bad) < 3 or 10 * len(bad) < len(lines) or 2 * len(bad) < len(foreign)):
        return None
    text = b"\n".join(bad)
    runs = re.findall(rb"[\x80-\xff]+", text)
    if 2 * sum(len(run) == 1 for run in runs) > len(runs):
        return "Windows-1252 (Latin-1)"
    for codec, name in (("gb18030", "GB18030 (GBK)"), ("shift_jis", "Shift-JIS"), ("euc_kr", "EUC-KR")):
        with contextlib.suppress(UnicodeDecodeError):
            text.decode(codec)
            return name
    return "another encoding"


def is_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_utf8_block(block: pa.Buffer) -> bool:
    """Whether many bytes are UTF-8; fast."""
    offsets = pa.py_buffer(np.array([0, block.size], np.int32))
    try:
        pa.StringArray.from_buffers(1, offsets, block).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
