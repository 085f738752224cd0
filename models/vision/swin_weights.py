"""Published Swin weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from beam_pipelines.format.errors import ArtifactError
from models.vision.swin import PatchMerging, Swin
from models.vision.torch_checkpoint import read_torch_checkpoint

# What published files hold beside the network up to its pooled features.
_IGNORED_PREFIXES = ("head.", "classifier.", "decoder.", "embeddings.mask_token")
_IGNORED_SUFFIX = ".relative_position_index"  # follows from the window


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_swin_weights` did.

    Attributes:
        publisher: whose names the file uses, `torchvision` or `Hugging Face`.
        variables: how many variables of the network were filled: all.
        ignored: names of the file's tensors that the network has no use for: a classification head, for example.
    """

    publisher: str
    variables: int
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """Where a variable's value is in a file: tensors to join along their first axis, then to transpose."""

    variable: keras.Variable
    names: tuple[str, ...]
    axes: tuple[int, ...]


def load_swin_weights(swin: Swin, path: str | Path) -> LoadedWeights:
    """Fills every variable of a Swin Transformer from a published file.

    Args:
        swin: of the architecture of the file; any input size.
        path: torchvision's or Hugging Face's weights in a file that `read_torch_checkpoint` reads. Names of Hugging
            Face may begin with `swin.`, as those of its models with a head do.

    Raises:
        ArtifactError: the file cannot be read, or it has another architecture: a tensor is missing, has another shape
            or belongs to nothing. No variable has changed then.

    Reference: the state dictionaries of `torchvision.models.swin_t` and `transformers.SwinModel`.
    """
    tensors = read_torch_checkpoint(path)
    if not swin.built:
        swin.build((None, None, None, 3))
    prefix = "swin." if any(name.startswith("swin.") for name in tensors) else ""
    publisher = next((name for name, (first, _) in _PUBLISHERS.items() if prefix + first in tensors), None)
    if publisher is None:
        some = ", ".join(list(tensors)[:3])
        raise ArtifactError(f"{path}: not a Swin of {' or '.join(_PUBLISHERS)}; its names begin with {some}")

    sources = list(_PUBLISHERS[publisher][1](swin, prefix))
    values = [_value(source, tensors, path) for source in sources]
    used = {name for source in sources for name in source.names}
    ignored = tuple(name for name in tensors if name not in used)
    if unknown := [name for name in ignored if not _is_beside_the_network(name.removeprefix(prefix))]:
        raise ArtifactError(
            f"{path}: {len(unknown)} tensors have no place in a Swin of depths {list(swin.depths)}: "
            f"{', '.join(unknown[:3])}"
        )
    for source, value in zip(sources, values, strict=True):
        source.variable.assign(value)
    return LoadedWeights(publisher, len(sources), ignored)


def _is_beside_the_network(name: str) -> bool:
    return name.startswith(_IGNORED_PREFIXES) or name.endswith(_IGNORED_SUFFIX)


def _value(source: _Source, tensors: dict[str, np.ndarray], path: str | Path) -> np.ndarray:
    """A variable's value in its own layout."""
    shape = tuple(source.variable.shape)
    theirs = [shape[source.axes.index(axis)] for axis in range(len(shape))]
    theirs[0] //= len(source.names)
    for name in source.names:
        if name not in tensors:
            raise ArtifactError(f"{path}: lacks {name} for {source.variable.path} of shape {shape}")
        if tensors[name].shape != tuple(theirs):
            raise ArtifactError(
                f"{path}: {name} has the shape {tensors[name].shape}, but {source.variable.path} of shape {shape} "
                f"needs {tuple(theirs)}"
            )
    return np.concatenate([tensors[name] for name in source.names]).astype(np.float32).transpose(source.axes)


def _torchvision(swin: Swin, prefix: str) -> Iterator[_Source]:
    yield from _kernel_and_bias(swin.patches, f"{prefix}features.0.0")
    yield from _scale_and_offset(swin.patch_norm, f"{prefix}features.0.2")
    stage = block = 0
    for layer in swin.stages:
        if isinstance(layer, PatchMerging):
            stage, block = stage + 1, 0
            theirs = f"{prefix}features.{2 * stage}"
            yield from _scale_and_offset(layer.norm, f"{theirs}.norm")
            yield from _kernel_and_bias(layer.reduction, f"{theirs}.reduction")
            continue
        theirs = f"{prefix}features.{2 * stage + 1}.{block}"
        yield from _scale_and_offset(layer.norm1, f"{theirs}.norm1")
        yield from _kernel_and_bias(layer.attention.qkv, f"{theirs}.attn.qkv")
        yield from _kernel_and_bias(layer.attention.proj, f"{theirs}.attn.proj")
        yield _position_bias(layer.attention, f"{theirs}.attn")
        yield from _scale_and_offset(layer.norm2, f"{theirs}.norm2")
        yield from _kernel_and_bias(layer.expand, f"{theirs}.mlp.0")
        yield from _kernel_and_bias(layer.reduce, f"{theirs}.mlp.3")
        block += 1
    yield from _scale_and_offset(swin.norm, f"{prefix}norm")


def _hugging_face(swin: Swin, prefix: str) -> Iterator[_Source]:
    yield from _kernel_and_bias(swin.patches, f"{prefix}embeddings.patch_embeddings.projection")
    yield from _scale_and_offset(swin.patch_norm, f"{prefix}embeddings.norm")
    stage = block = 0
    for layer in swin.stages:
        if isinstance(layer, PatchMerging):  # theirs ends the stage before
            theirs = f"{prefix}encoder.layers.{stage}.downsample"
            stage, block = stage + 1, 0
            yield from _scale_and_offset(layer.norm, f"{theirs}.norm")
            yield from _kernel_and_bias(layer.reduction, f"{theirs}.reduction")
            continue
        theirs = f"{prefix}encoder.layers.{stage}.blocks.{block}"
        attention = f"{theirs}.attention.self"
        yield from _scale_and_offset(layer.norm1, f"{theirs}.layernorm_before")
        yield from _kernel_and_bias(layer.attention.qkv, *(f"{attention}.{part}" for part in ("query", "key", "value")))
        yield from _kernel_and_bias(layer.attention.proj, f"{theirs}.attention.output.dense")
        yield _position_bias(layer.attention, attention)
        yield from _scale_and_offset(layer.norm2, f"{theirs}.layernorm_after")
        yield from _kernel_and_bias(layer.expand, f"{theirs}.intermediate.dense")
        yield from _kernel_and_bias(layer.reduce, f"{theirs}.output.dense")
        block += 1
    yield from _scale_and_offset(swin.norm, f"{prefix}layernorm")


# A tensor that tells the publisher, and the publisher's names.
_PUBLISHERS: dict[str, tuple[str, Callable[[Swin, str], Iterator[_Source]]]] = {
    "torchvision": ("features.0.0.weight", _torchvision),
    "Hugging Face": ("embeddings.patch_embeddings.projection.weight", _hugging_face),
}


def _kernel_and_bias(layer: Any, *modules: str) -> Iterator[_Source]:
    """Of a dense or convolutional layer: PyTorch keeps (out, in, height, width), Keras (height, width, in, out)."""
    axes = (2, 3, 1, 0) if layer.kernel.ndim == 4 else (1, 0)
    yield _Source(layer.kernel, tuple(f"{module}.weight" for module in modules), axes)
    if layer.use_bias:
        yield _Source(layer.bias, tuple(f"{module}.bias" for module in modules), (0,))


def _scale_and_offset(layer: keras.layers.LayerNormalization, module: str) -> Iterator[_Source]:
    yield _Source(layer.gamma, (f"{module}.weight",), (0,))
    yield _Source(layer.beta, (f"{module}.bias",), (0,))


def _position_bias(layer: Any, module: str) -> _Source:
    return _Source(layer.relative_position_bias_table, (f"{module}.relative_position_bias_table",), (0, 1))
