"""Reads weight files that PyTorch programs write, without PyTorch."""

import io
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from beam_pipelines.format.errors import ArtifactError

_BFLOAT16 = "bfloat16"  # NumPy lacks it: the upper half of a float32
_SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": _BFLOAT16,
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_STORAGE_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of a number
_NESTED = ("state_dict", "model")
"""Where training programs keep the weights in a checkpoint that holds more than those."""


def read_torch_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a weight file.

    A file of `torch.save` is a pickle, which can name any function to call. Here only those that rebuild tensors are
    known; a file that asks for another one is refused.

    Args:
        path: a `.safetensors` file, or a `.pth`, `.pt` or `.bin` file that `torch.save` wrote, PyTorch's zip files and
            the format before 1.6 alike: a dictionary of tensors, itself or under `state_dict` or `model`.

    Returns:
        The tensors by name. bfloat16 becomes float32, which holds the same values.

    Raises:
        ArtifactError: the file is missing, damaged, of another format or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"no weight file {path}")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            if file.read(len(_LEGACY_START)) == _LEGACY_START:
                return _read_legacy(path, file)
    except ArtifactError:
        raise
    except Exception as error:  # what a damaged header or pickle makes happen has no end
        raise ArtifactError(f"{path}: damaged weight file ({type(error).__name__}: {error})") from error
    raise ArtifactError(f"{path}: neither a .safetensors file nor one of torch.save")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Eight bytes of length, that much JSON, then the tensors at the offsets that the JSON gives."""
    raw = np.memmap(path, np.uint8, "r")
    start = 8 + int(raw[:8].view("<u8")[0])
    header = json.loads(raw[8:start].tobytes())
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS_TYPES:
            raise ArtifactError(f"{path}: {name} has the unknown type {entry['dtype']}")
        begin, end = entry["data_offsets"]
        # The reshape fails where bytes are missing.
        tensors[name] = _decode(raw[start + begin : start + end], _SAFETENSORS_TYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
    return tensors


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ArtifactError(f"{path}: a zip file, but not one of torch.save")
        content = _ZipUnpickler(path, archive, pickles[0].removesuffix("data.pkl")).load()
    return _tensors(path, content)


def _read_legacy(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    """Pickles of a version, of the machine, of the dictionary and of the storages' names; then the storages' bytes."""
    for _ in range(2):
        _TensorUnpickler(path, file).load()
    unpickler = _LegacyUnpickler(path, file)
    content = unpickler.load()
    for key in _TensorUnpickler(path, file).load():
        storage, kind = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != len(storage):
            raise ValueError("a storage has another length than its tensors say")
        raw = file.read(len(storage) * _itemsize(kind))
        storage[...] = _decode(np.frombuffer(raw, np.uint8), kind)  # the tensors are views of it
        del unpickler.storages[key]
    if unpickler.storages:
        raise ValueError(f"{len(unpickler.storages)} storages are missing")
    return _tensors(path, content)


def _tensors(path: Path, content: Any) -> dict[str, np.ndarray]:
    """What is a tensor in an unpickled dictionary."""
    state = content if isinstance(content, dict) else {}
    for name in _NESTED:
        if isinstance(state.get(name), dict):
            state = state[name]
    tensors = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    if not tensors:
        raise ArtifactError(f"{path}: holds no dictionary of tensors")
    return tensors


def _itemsize(kind: str) -> int:
    return 2 if kind == _BFLOAT16 else np.dtype(kind).itemsize


def _decode(raw: np.ndarray, kind: str) -> np.ndarray:
    """Little-endian bytes as numbers of the type `kind`."""
    if kind == _BFLOAT16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.dtype(kind).newbyteorder("<"))


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors and nothing else."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The few names that a pickle of tensors may use."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return self._rebuild_parameter
        if module == "torch" and name in _STORAGE_TYPES:
            return _STORAGE_TYPES[name]
        raise ArtifactError(f"{self._path}: holds a {module}.{name}; only files of tensors are read")

    @staticmethod
    def _rebuild_tensor(
        storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> np.ndarray:
        if storage.ndim != 1 or not storage.flags.c_contiguous:
            raise ValueError("a tensor refers to no storage")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if min((offset, *shape, *strides)) < 0 or (math.prod(shape) > 0 and last >= len(storage)):
            raise ValueError(f"a tensor of shape {shape} leaves its storage of {len(storage)} numbers")
        if not math.prod(shape):
            return np.zeros(shape, storage.dtype)
        steps = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)

    @staticmethod
    def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
        return tensor


class _ZipUnpickler(_TensorUnpickler):
    """Of a zip file, in which each storage is an entry."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(path, io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self._archive = archive
        self._prefix = prefix
        self._storages: dict[str, np.ndarray] = {}
        if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
            raise ArtifactError(f"{path}: written on a big-endian machine")

    def persistent_load(self, reference: tuple) -> np.ndarray:
        """The numbers of a storage; several tensors may be views of one."""
        _, kind, key, _, _ = reference
        if key not in self._storages:
            raw = np.frombuffer(self._archive.read(f"{self._prefix}data/{key}"), np.uint8)
            self._storages[key] = _decode(raw, kind)
        return self._storages[key]


class _LegacyUnpickler(_TensorUnpickler):
    """Of a file from before PyTorch 1.6, whose storages follow the pickles.

    Attributes:
        storages: by name: the numbers, to be filled, and their type.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        self.storages: dict[str, tuple[np.ndarray, str]] = {}

    def persistent_load(self, reference: tuple) -> np.ndarray:
        """The numbers of a storage; several tensors may be views of one."""
        _, kind, key, _, length, view = reference
        if view is not None:
            raise ValueError("a storage is a view of another one")
        if key not in self.storages:
            if length * _itemsize(kind) > self._path.stat().st_size:
                raise ValueError("a storage is longer than the file")
            self.storages[key] = np.empty(length, np.float32 if kind == _BFLOAT16 else kind), kind
        return self.storages[key][0]
