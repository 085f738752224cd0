"""Published Swin weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from beam_pipelines.format.errors import ArtifactError
from models.vision.published_weights import LoadedWeights, Source, fill_variables, kernel_axes
from models.vision.swin import PatchMerging, Swin
from models.vision.torch_checkpoint import read_torch_checkpoint

# What published files hold beside the network up to its pooled features.
_IGNORED_PREFIXES = ("head.", "classifier.", "decoder.", "embeddings.mask_token")
_IGNORED_SUFFIX = ".relative_position_index"  # follows from the window


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

    return fill_variables(
        list(_PUBLISHERS[publisher][1](swin, prefix)),
        tensors,
        path,
        publisher=publisher,
        network=f"a Swin of depths {list(swin.depths)}",
        ignore=lambda name: _is_beside_the_network(name.removeprefix(prefix)),
    )


def _is_beside_the_network(name: str) -> bool:
    return name.startswith(_IGNORED_PREFIXES) or name.endswith(_IGNORED_SUFFIX)


def _torchvision(swin: Swin, prefix: str) -> Iterator[Source]:
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


def _hugging_face(swin: Swin, prefix: str) -> Iterator[Source]:
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
_PUBLISHERS: dict[str, tuple[str, Callable[[Swin, str], Iterator[Source]]]] = {
    "torchvision": ("features.0.0.weight", _torchvision),
    "Hugging Face": ("embeddings.patch_embeddings.projection.weight", _hugging_face),
}


def _kernel_and_bias(layer: Any, *modules: str) -> Iterator[Source]:
    """Of a dense or convolutional layer."""
    yield Source(layer.kernel, tuple(f"{module}.weight" for module in modules), kernel_axes(layer.kernel))
    if layer.use_bias:
        yield Source(layer.bias, tuple(f"{module}.bias" for module in modules), (0,))


def _scale_and_offset(layer: keras.layers.LayerNormalization, module: str) -> Iterator[Source]:
    yield Source(layer.gamma, (f"{module}.weight",), (0,))
    yield Source(layer.beta, (f"{module}.bias",), (0,))


def _position_bias(layer: Any, module: str) -> Source:
    return Source(layer.relative_position_bias_table, (f"{module}.relative_position_bias_table",), (0, 1))
