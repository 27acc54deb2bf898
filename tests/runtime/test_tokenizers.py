"""Text to ids and back; text in pieces as tokens come."""

import json
import os

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
    assert "".join(as_text(ByteTokenizer(), [97, 255, 255, 98, 240])) == "a\ufffd\ufffdb"


def test_numbers():
    tokenizer = NumberTokenizer(10)
    assert tokenizer.encode(" 3 9\n0") == [3, 9, 0]
    assert list(as_text(tokenizer, [3, 9])) == [" 3", " 9", ""]
    for text in ("", "3 x", "10", "-1"):
        with pytest.raises(TokenizerError, match="ids from 0 to 9"):
            tokenizer.encode(text)


class Words:
    """As SentencePiece: a word begins with a space, except where a text begins; 9 says nothing."""

    def decode(self, ids):
        text = "".join(["\u2581once", "\u2581upon", "s", "\u2581"][n] for n in ids if n != 9)
        return text.replace("\u2581", " ").removeprefix(" ")


@pytest.mark.parametrize("ids", [[0, 1], [1, 2, 2], [3, 0], [9, 1], [0, 3, 9, 9, 1], [2, 1] * 99])
@pytest.mark.parametrize("before", [[], [0], [0, 9], [3], [0, 3], [9] * 99, [1, 9] * 99])
def test_a_continuation_begins_with_its_space(before, ids):
    pieces = "".join(as_text(Words(), iter(ids), before))
    assert Words().decode(before) + pieces == Words().decode([*before, *ids])


def byte_fallback(folder):
    """A tokenizer as Llama 2's: what it has no token for becomes bytes."""
    library = pytest.importorskip("tokenizers")
    normalizers, decoders = library.normalizers, library.decoders
    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    vocab |= {letter: 257 + n for n, letter in enumerate("\u2581abc")}
    made = library.Tokenizer(library.models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    made.add_special_tokens(["<s>"])
    made.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder, 300)


def byte_level(folder):
    """A tokenizer as GPT-2's, with a token for each byte."""
    library = pytest.importorskip("tokenizers")
    letters = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)}
    made = library.Tokenizer(library.models.BPE(vocab, []))
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder, 300)


TEXTS = ("a\u2615b", "a\u2615\u3042b", "\U0001f600" * 2, "日本語", "\U0001f469\u200d\U0001f467",
         "\ufffd\ufffd", "ab c \xe9", "a\u2615 " * 40)  # fmt: skip


@pytest.mark.parametrize("make", [byte_fallback, byte_level, lambda folder: ByteTokenizer()])
def test_good_text_is_streamed_as_it_is(tmp_path, make):
    tokenizer = make(tmp_path)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        for cut in range(min(len(ids), 9)):
            pieces = list(as_text(tokenizer, ids[cut:], ids[:cut]))
            start = tokenizer.decode(ids[:cut])
            if not start.endswith("\ufffd"):
                assert start + "".join(pieces) == text
    assert len(list(as_text(tokenizer, tokenizer.encode("日本語")))) == 4  # each as it is complete


def test_bytes_that_are_no_text_spoil_no_others(tmp_path):
    tokenizer = byte_fallback(tmp_path)
    first, wrong, last = tokenizer.encode("日")[1:], [1 + 255], tokenizer.encode("本")[1:]
    special = [tokenizer.encode("<s>")[-1]]
    ids = [*first, *wrong, *special, *last, 10_000]
    assert "".join(as_text(tokenizer, ids)) == tokenizer.decode(ids) == "日\ufffd本"


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
    for text in (b"{}", b"", b"[" * 100_000, b"\xff", b'{"model": {"type": "BPE"}}'):
        (tmp_path / "tokenizer.json").write_bytes(text)
        with pytest.raises(TokenizerError, match="is not a tokenizer"):
            load_tokenizer(tmp_path, 3)
    (tmp_path / "tokenizer.json").unlink()
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="not a regular file"):
        load_tokenizer(tmp_path, 3)


def test_a_prompt_is_not_cut_off_or_padded(tmp_path):
    """As some folders' tokenizers say, for training."""
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer.from_str(json.dumps(WORDS))
    made.enable_truncation(2)
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path, 3).encode("one two one two") == [0, 1, 0, 1]
    assert load_tokenizer(tmp_path, 3).encode("one") == [0]
