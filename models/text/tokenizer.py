"""Titles to numbers of tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.text_file import read_json
from models.data.pages import PADDING
from models.layers.text_embedding import hash_tokens

Tokenizer = Callable[[Sequence[str]], np.ndarray]
"""Texts to int32 `(texts, length)`, padded with -1; a text without words is padding alone."""

_TOGETHER = 1 << 14  # texts


def hashed_words(buckets: int, length: int) -> Tokenizer:
    """Words, hashed: needs no vocabulary and knows any language. See `hash_tokens`.

    Args:
        buckets: number of hash values.
        length: words kept of a text.
    """

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        parts = [
            hash_tokens(tf.constant(list(texts[first : first + _TOGETHER]), tf.string), buckets, length).numpy()
            for first in range(0, len(texts), _TOGETHER)
        ]
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros((0, length), np.int32)

    return tokenize


def word_pieces(directory: str | Path, length: int) -> Tokenizer:
    """The word pieces of a published BERT, between `[CLS]` and `[SEP]`.

    Args:
        directory: has `vocab.txt`, a token per line, and may have `tokenizer_config.json`.
        length: tokens kept of a text, those two included.

    Raises:
        ArtifactError: there is no vocabulary, or it lacks a token that BERT needs.
    """
    from tokenizers import Tokenizer as Pipeline  # whose import takes long
    from tokenizers import models, normalizers, pre_tokenizers

    path = Path(directory) / "vocab.txt"
    if not path.is_file():
        raise ArtifactError(f"no file {path}; the directory of a published BERT has one")
    settings_path = path.with_name("tokenizer_config.json")
    settings = read_json(settings_path) if settings_path.is_file() else {}
    vocabulary = models.WordPiece.read_file(str(path))
    if missing := [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]:
        raise ArtifactError(f"{path}: lacks {', '.join(missing)}")
    pipeline = Pipeline(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pipeline.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first, last = vocabulary["[CLS]"], vocabulary["[SEP]"]

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        tokens = np.full((len(texts), length), PADDING, np.int32)
        for row, encoded in enumerate(pipeline.encode_batch(list(texts), add_special_tokens=False)):
            if encoded.ids:
                ids = [first, *encoded.ids[: length - 2], last]
                tokens[row, : len(ids)] = ids
        return tokens

    return tokenize
