import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError
from models.text.tokenizer import hashed_words, word_pieces
from tests.models.text.bert_fixture import DIRECTORY, EXPECTED, TITLES, padded


def test_word_pieces_are_those_of_transformers():
    tokens = word_pieces(DIRECTORY, 16)([*TITLES, "", "  "])
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[:-2], padded(EXPECTED["tokens"], 16))
    assert (tokens[-2:] == -1).all()  # a title without words has none


def test_long_titles_keep_their_beginning_and_their_end_mark():
    short = word_pieces(DIRECTORY, 5)(TITLES)
    whole = word_pieces(DIRECTORY, 30)(TITLES)
    np.testing.assert_array_equal(short[1], [*whole[1, :4], 3])


def test_a_vocabulary_must_be_there_and_have_what_bert_needs(tmp_path):
    with pytest.raises(ArtifactError, match=r"no file .*vocab\.txt"):
        word_pieces(tmp_path, 5)
    (tmp_path / "vocab.txt").write_text("[UNK]\nred\n")
    with pytest.raises(ArtifactError, match=r"lacks \[CLS\], \[SEP\]"):
        word_pieces(tmp_path, 5)


def test_settings_beside_the_vocabulary_are_heeded(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\nred\nRed\n")
    assert word_pieces(tmp_path, 4)(["Red"]).tolist() == [[1, 3, 2, -1]]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert word_pieces(tmp_path, 4)(["Red"]).tolist() == [[1, 4, 2, -1]]


def test_hashed_words_are_compared_without_case_and_need_no_vocabulary():
    tokens = hashed_words(1000, 3)(["Red dress", "dress, RED", "", "a b c d"])
    assert tokens.dtype == np.int32
    assert tokens[0, 0] == tokens[1, 1] != tokens[0, 1] == tokens[1, 0]
    assert (tokens[2] == -1).all()
    assert (tokens[3] >= 0).all()
    assert hashed_words(1000, 3)([]).shape == (0, 3)
