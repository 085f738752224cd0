"""Published BERT weights and what their files say of the architecture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.text_file import read_json
from models.text.bert import Bert
from models.vision.torch_checkpoint import read_torch_checkpoint

_CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PREFIX = "bert."  # of models with a head
_BESIDE_THE_ENCODER = ("pooler.", "cls.", "classifier.", "embeddings.position_ids")
_KEYS = {
    "vocabulary": "vocab_size",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
}


def read_architecture(directory: str | Path) -> dict[str, Any]:
    """The arguments of `Bert` of a published model.

    Args:
        directory: of Hugging Face's or sentence-transformers' files.

    Raises:
        ArtifactError: there is no `config.json`, or it is not that of a BERT with absolute positions and an exact GELU.
    """
    path = Path(directory) / _CONFIG
    config = _read_json(path)
    for key, expected in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if config.get(key, expected) != expected:
            raise ArtifactError(f"{path}: {key} is {config[key]!r}, only {expected!r} is known")
    if missing := [key for key in _KEYS.values() if not isinstance(config.get(key), int)]:
        raise ArtifactError(f"{path}: lacks {', '.join(missing)}")
    return {ours: config[theirs] for ours, theirs in _KEYS.items()}


def load_bert_weights(bert: Bert, directory: str | Path) -> None:
    """Fills every variable of a `Bert` from the files of a published model.

    Args:
        bert: of the architecture of the files, see `read_architecture`.
        directory: has `model.safetensors` or `pytorch_model.bin`, which are read without PyTorch.

    Raises:
        ArtifactError: there is no such file, it cannot be read, or it has another architecture. No variable has
            changed then.

    Reference: the state dictionary of `transformers.BertModel`.
    """
    paths = [Path(directory) / name for name in _WEIGHTS]
    path = next((path for path in paths if path.is_file()), paths[0])
    tensors = {name.removeprefix(_PREFIX): value for name, value in read_torch_checkpoint(path).items()}
    if not bert.built:
        bert.build((None, None))
    places = list(_places(bert))
    used = {name for _, names in places for name in names}
    if missing := sorted(used - tensors.keys()):
        raise ArtifactError(f"{path}: lacks {', '.join(missing[:3])}")
    if unknown := [name for name in tensors if name not in used and not name.startswith(_BESIDE_THE_ENCODER)]:
        raise ArtifactError(f"{path}: {len(unknown)} tensors have no place in this BERT: {', '.join(unknown[:3])}")
    values = []
    for variable, names in places:
        value = np.concatenate([tensors[name] for name in names])
        if names[0].endswith(".weight") and value.ndim == 2 and "embeddings" not in names[0]:
            value = value.T  # PyTorch's dense layers keep (out, in)
        if value.shape != tuple(variable.shape):
            raise ArtifactError(
                f"{path}: {names[0]} gives the shape {value.shape}, {variable.path} has {variable.shape}"
            )
        values.append(value)
    for (variable, _), value in zip(places, values, strict=True):
        variable.assign(value.astype(np.float32))


def _places(bert: Bert) -> Iterator[tuple[keras.Variable, tuple[str, ...]]]:
    """Each variable and the tensors that it is made of, joined along their first axis."""
    yield bert.token_table, ("embeddings.word_embeddings.weight",)
    yield bert.position_table, ("embeddings.position_embeddings.weight",)
    yield bert.type_table, ("embeddings.token_type_embeddings.weight",)
    yield from _scale_and_offset(bert.norm, "embeddings.LayerNorm")
    for number, block in enumerate(bert.blocks):
        theirs = f"encoder.layer.{number}"
        attention = (f"{theirs}.attention.self.{part}" for part in ("query", "key", "value"))
        yield from _kernel_and_bias(block.attention.qkv, *attention)
        yield from _kernel_and_bias(block.attention.out, f"{theirs}.attention.output.dense")
        yield from _scale_and_offset(block.attention_norm, f"{theirs}.attention.output.LayerNorm")
        yield from _kernel_and_bias(block.expand, f"{theirs}.intermediate.dense")
        yield from _kernel_and_bias(block.reduce, f"{theirs}.output.dense")
        yield from _scale_and_offset(block.norm, f"{theirs}.output.LayerNorm")


def _kernel_and_bias(layer: Any, *modules: str) -> Iterator[tuple[keras.Variable, tuple[str, ...]]]:
    yield layer.kernel, tuple(f"{module}.weight" for module in modules)
    yield layer.bias, tuple(f"{module}.bias" for module in modules)


def _scale_and_offset(layer: Any, module: str) -> Iterator[tuple[keras.Variable, tuple[str, ...]]]:
    yield layer.gamma, (f"{module}.weight",)
    yield layer.beta, (f"{module}.bias",)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"no file {path}; the directory of a published BERT has one")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a JSON object")
    return content
