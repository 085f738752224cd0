import json
import os
import pickle
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


@pytest.mark.parametrize("name", ["tensors.safetensors", "tensors.pth"])
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
        (lambda path: path.write_bytes((HERE / "legacy.pth").read_bytes()), "PyTorch 1.6 or newer"),
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
