import json
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.vision.torch_checkpoint import read_torch_checkpoint
from tests.models.fixtures.make_swin_fixtures import HERE, example_tensors


def write_zip(path: Path, content: bytes, **entries: bytes) -> Path:
    """A file as `torch.save` lays it out."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": content, **entries}.items():
            archive.writestr(f"archive/{name}", data)
    return path


@pytest.mark.parametrize("name", ["tensors.safetensors", "tensors.pth"])
def test_every_type_and_view_is_read(name):
    """Strides and shared storages in the file of `torch.save`, whose tensors stand under `model` beside a number."""
    tensors, expected = read_torch_checkpoint(HERE / name), example_tensors()
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(tensors[key], value, err_msg=key)
        assert (tensors[key].dtype, tensors[key].shape) == (value.dtype, value.shape), key


def test_bfloat16_keeps_its_values(tmp_path):
    values = np.array([0.0, -0.0, 1.0, -3.140625, 2.0**127, 2.0**-126, np.inf, -np.inf], np.float32)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}}).encode()
    halves = (values.view(np.uint32) >> 16).astype("<u2")  # the lower halves of these are zero
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + halves.tobytes())
    x = read_torch_checkpoint(path)["x"]
    np.testing.assert_array_equal(x, values.reshape(2, 4))
    np.testing.assert_array_equal(np.signbit(x), np.signbit(values.reshape(2, 4)))


def test_files_from_before_pytorch_1_6_are_read():
    base = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
    tensors = read_torch_checkpoint(HERE / "legacy.pth")
    expected = {
        "transposed": base.T,
        "every_second_column": base[1:, ::2],
        "last_row": base[3],
        "repeated": base[[0, 0]],
        "parameter": base[0],
    }
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(tensors[key], value, err_msg=key)


class Placeholder:
    """Of a tensor."""


def legacy_file(path: Path, *, storages: bytes, length: int = 4, view: object = None) -> Path:
    """A tensor `x` of 4 bfloat16 numbers as old versions of PyTorch lay it out."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", bfloat16, "7", "cpu", length, view) if isinstance(thing, bytes) else None

        def reducer_override(self, thing):
            return (rebuild, (b"", 0, (2, 2), (2, 1))) if isinstance(thing, Placeholder) else NotImplemented

    torch, torch_utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.BFloat16Storage = bfloat16 = type("BFloat16Storage", (), {"__module__": "torch"})

    def rebuild():
        raise AssertionError

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch_utils._rebuild_tensor_v2 = rebuild
    with path.open("wb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", torch_utils)
        pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)
        pickle.dump(1001, file, protocol=2)
        pickle.dump({"little_endian": True}, file, protocol=2)
        Pickler(file, protocol=2).dump({"state_dict": {"x": Placeholder()}})
        pickle.dump(["7"], file, protocol=2)
        file.write(storages)
    return path


def test_the_old_format_keeps_bfloat16_and_refuses_what_does_not_fit(tmp_path):
    values = np.array([1.0, -3.140625, 2.0**127, np.inf], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path, length = tmp_path / "x.pth", (4).to_bytes(8, "little")
    np.testing.assert_array_equal(
        read_torch_checkpoint(legacy_file(path, storages=length + halves))["x"], values.reshape(2, 2)
    )
    for changes, message in (
        ({"storages": length + halves[:-1]}, "could not broadcast|size"),
        ({"storages": (5).to_bytes(8, "little") + halves}, "another length"),
        ({"storages": length + halves, "length": 10**12}, "longer than the file"),
        ({"storages": length + halves, "length": 3}, "leaves its storage"),
        ({"storages": length + halves, "view": ("8", 0, 4)}, "is a view of another"),
    ):
        with pytest.raises(InputError, match=f"x.pth: damaged weight file.*{message}"):
            read_torch_checkpoint(legacy_file(path, **changes))


@pytest.mark.parametrize("name", ["tensors.safetensors", "tensors.pth", "legacy.pth"])
def test_a_file_that_was_cut_is_refused(name, tmp_path):
    whole = (HERE / name).read_bytes()
    cut = tmp_path / name
    for size in range(0, len(whole), 61):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match=name):
            read_torch_checkpoint(cut)


def test_a_tensor_cannot_leave_its_storage(tmp_path):
    with zipfile.ZipFile(HERE / "tensors.pth") as archive:
        entries = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    storages = [name for name in entries if name.startswith("data/")]
    entries = {name: data[: len(data) // 2] if name in storages else data for name, data in entries.items()}
    path = write_zip(tmp_path / "short.pth", entries.pop("data.pkl"), **entries)
    with pytest.raises(InputError, match=r"short.pth: damaged .* leaves its storage"):
        read_torch_checkpoint(path)


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_calls_anything_else_is_refused_before_it_does(tmp_path):
    content = pickle.dumps(OrderedDict(weight=Harmful(tmp_path / "made")), protocol=2)
    path = write_zip(tmp_path / "harmful.pth", content)
    with pytest.raises(InputError, match=r"harmful.pth: holds a posix.mkdir; only files of tensors are read"):
        read_torch_checkpoint(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(content)  # it would have
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no weight file"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "neither a .safetensors file"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "a zip file, but not one of torch.save"),
        (lambda path: write_zip(path, pickle.dumps({"epoch": 3})), "holds no dictionary of tensors"),
        (lambda path: write_zip(path, pickle.dumps([1, 2])), "holds no dictionary of tensors"),
        (lambda path: write_zip(path, pickle.dumps({}), byteorder=b"big"), "big-endian"),
    ],
)
def test_other_files_are_one_clear_line(make, message, tmp_path):
    make(tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message):
        read_torch_checkpoint(tmp_path / "weights.pth")
