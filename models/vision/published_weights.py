"""Fills networks from the tensors of published weight files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from beam_pipelines.format.errors import ArtifactError


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded.

    Attributes:
        publisher: whose names the file uses, for example `torchvision` or `Hugging Face`.
        variables: how many variables of the network were filled: all.
        ignored: names of the file's tensors that the network has no use for: a classification head, for example.
    """

    publisher: str
    variables: int
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where a variable's value is in a file: tensors to join along their first axis, then to transpose."""

    variable: keras.Variable
    names: tuple[str, ...]
    axes: tuple[int, ...]


def kernel_axes(kernel: keras.Variable, depthwise: bool = False) -> tuple[int, ...]:
    """How a kernel of PyTorch, (out, in, height, width) or (out, in), is transposed to that of Keras."""
    if kernel.ndim == 2:
        return (1, 0)
    return (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)


def fill_variables(
    sources: Sequence[Source],
    tensors: dict[str, np.ndarray],
    path: str | Path,
    *,
    publisher: str,
    network: str,
    ignore: Callable[[str], bool],
) -> LoadedWeights:
    """Gives variables the values of a file; all of them, or none.

    Args:
        sources: where the values are.
        tensors: the file's tensors by name.
        path: the file, for errors.
        publisher: see `LoadedWeights`.
        network: what the variables make up, for errors: `a Swin of depths [2, 2]`.
        ignore: whether a name that no source has may be in the file.

    Raises:
        ArtifactError: a tensor is missing, has another shape or belongs to nothing. No variable has changed then.
    """
    values = [_value(source, tensors, path) for source in sources]
    used = {name for source in sources for name in source.names}
    ignored = tuple(name for name in tensors if name not in used)
    if unknown := [name for name in ignored if not ignore(name)]:
        raise ArtifactError(f"{path}: {len(unknown)} tensors have no place in {network}: {', '.join(unknown[:3])}")
    for source, value in zip(sources, values, strict=True):
        source.variable.assign(value)
    return LoadedWeights(publisher, len(sources), ignored)


def _value(source: Source, tensors: dict[str, np.ndarray], path: str | Path) -> np.ndarray:
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
