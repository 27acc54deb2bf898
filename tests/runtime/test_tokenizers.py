"""Text to ids and back; text in pieces as tokens come."""

import json

import pytest

from ringlet.runtime.training.tokenizers import (
    ByteTokenizer,
    NumberTokenizer,
    TokenizerError,
    as_text,
    load_tokenizer,
)


@pytest.mark.parametrize("text", ["", "plain", "zwölf Boxkämpfer", "日本", "a\n\0b"])
def test_bytes(text):
    ids = ByteTokenizer().encode(text)
    assert ids == list(text.encode())
    assert ByteTokenizer().decode(ids) == text
    pieces = list(as_text(ByteTokenizer(), ids))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_bytes_that_are_no_text_are_shown_as_such():
    assert "".join(as_text(ByteTokenizer(), [97, 255, 255, 98, 240])) == "a\ufffd\ufffdb\ufffd"


def test_numbers():
    tokenizer = NumberTokenizer(10)
    assert tokenizer.encode(" 3 9\n0") == [3, 9, 0]
    assert list(as_text(tokenizer, [3, 9])) == [" 3", " 9", ""]
    for text in ("", "3 x", "10", "-1"):
        with pytest.raises(TokenizerError, match="ids from 0 to 9"):
            tokenizer.encode(text)


WORDS = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"one": 0, "two": 1, "?": 2}, "unk_token": "?"},
}  # fmt: skip


def test_a_folder_without_a_tokenizer_takes_numbers(tmp_path):
    assert load_tokenizer(tmp_path, 5).encode("4") == [4]


def test_a_tokenizer_json(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(WORDS))
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        with pytest.raises(TokenizerError, match=r"pip install 'ringlet\[tokenizers\]'"):
            load_tokenizer(tmp_path, 3)
        return
    tokenizer = load_tokenizer(tmp_path, 3)
    assert tokenizer.encode("two one three") == [1, 0, 2]
    assert tokenizer.decode([0, 1]) == "one two"
    assert "".join(as_text(tokenizer, [0, 1, 1])) == "one two two"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="is not a tokenizer"):
        load_tokenizer(tmp_path, 3)
