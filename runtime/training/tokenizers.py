"""Text to ids and back: bytes, a model's tokenizer.json, or the ids themselves as numbers."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from ringlet.nn.files import read_object, read_text
from ringlet.runtime.text.encoder import refusals

TOKENIZER = "tokenizer.json"
UNFINISHED = "\ufffd"
"""What decoded text ends with while its last character is incomplete."""

CONTEXT = 16
"""How many earlier ids the new ones are decoded with, at least: a space may depend on them."""

PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""Bytes that GPT-2's alphabet writes as the characters of these numbers."""

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A token that is a byte, where a tokenizer has no token for a character."""


class TokenizerError(ValueError):
    """A text has no ids for a model, or its tokenizer cannot be used; the message says why."""


class Tokenizer(Protocol):
    """Text to ids and back."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text; raises TokenizerError."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""


class ByteTokenizer:
    """Every byte of the text (UTF-8) is an id."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(token_bytes, ids)).decode(errors="replace")


def token_bytes(token: int) -> bytes:
    """A byte-level model's token; ids beyond the bytes (in a larger vocabulary) give U+FFFD."""
    return bytes([token]) if token < 256 else UNFINISHED.encode()


class NumberTokenizer:
    """A text is a list of ids, as decimals with spaces between."""

    def __init__(self, vocab_size: int) -> None:
        self._size = vocab_size

    def encode(self, text: str) -> list[int]:
        try:
            ids = [int(word) for word in text.split()]
        except ValueError:
            ids = []
        if not ids or not all(0 <= number < self._size for number in ids):
            raise TokenizerError(
                f"this model knows ids from 0 to {self._size - 1}; give some as the prompt"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f" {number}" for number in ids)


class JSONTokenizer:
    """A tokenizer.json, by the tokenizers library (`pip install 'ringlet[tokenizers]'`)."""

    def __init__(self, file: Path) -> None:
        try:
            from tokenizers import Tokenizer as Library
        except ImportError as error:
            raise TokenizerError(
                f"{file} needs the tokenizers library: pip install 'ringlet[tokenizers]'"
            ) from error
        self._file = file
        with refusals(f"{file} is not a tokenizer", TokenizerError):
            self._library: Any = Library.from_str(read_text(file))
            self._library.no_truncation()
            self._library.no_padding()
            added = self._library.get_added_tokens_decoder()
            self._special = {number for number, token in added.items() if token.special}
            decoder = self._library.decoder
            self._has_bytes = decoder is not None and decoder.decode(["<0x41>"]) == "A"

    def encode(self, text: str) -> list[int]:
        with refusals(f"{self._file} makes no ids of the text", TokenizerError):
            return list(self._library.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        with refusals(f"{self._file} makes no text of the ids", TokenizerError):
            text: str = self._decode(list(ids))
            return text

    def _decode(self, ids: list[int]) -> Any:
        """As the library, which for a row of bytes that are no text, or not yet, gives up the good
        characters among them too."""
        tokens = [self._library.id_to_token(number) for number in ids]
        if not self._has_bytes or not any(token and BYTE.fullmatch(token) for token in tokens):
            return self._library.decode(ids)
        known = [t for n, t in zip(ids, tokens, strict=True) if t and n not in self._special]
        parts: list[str] = []
        for are_bytes, row in groupby(known, lambda token: BYTE.fullmatch(token) is not None):
            tokens = list(row)
            data = bytes(int(token[3:5], 16) for token in tokens) if are_bytes else b""
            parts += [data.decode(errors="replace")] if are_bytes else tokens
        return self._library.decoder.decode(parts)


def byte_tokenizer() -> str:
    """The tokenizer.json in which every byte is an id, as other programs read it."""
    others = (byte for byte in range(256) if byte not in PRINTABLE)
    letters = {byte: chr(byte) for byte in PRINTABLE}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    values: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {**level, "use_regex": False}, "post_processor": None,
        "decoder": {**level, "use_regex": False},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": {letters[byte]: byte for byte in range(256)},
            "merges": [],
        },
    }  # fmt: skip
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def is_byte_tokenizer(file: Path) -> bool:
    """Whether a tokenizer.json is that one."""
    try:
        return read_text(file) == byte_tokenizer()
    except (OSError, ValueError):
        return False


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model's folder; ids as numbers if it has no tokenizer.json."""
    file = folder / TOKENIZER
    if not os.path.lexists(file):
        return NumberTokenizer(vocab_size)
    return ByteTokenizer() if is_byte_tokenizer(file) else JSONTokenizer(file)


def token_ids(file: Path) -> dict[str, int]:
    """The tokens of a tokenizer.json and their ids; raises TokenizerError."""
    values = read_object(file, TokenizerError)
    try:
        known = values["model"]["vocab"]
        if isinstance(known, list):  # of (token, score)
            known = {token: number for number, (token, _) in enumerate(known)}
        added = {each["content"]: each["id"] for each in values.get("added_tokens") or ()}
        found = {**known, **added}
        if not all(type(token) is str and type(number) is int for token, number in found.items()):
            raise ValueError("its vocabulary is not of texts and ids")
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{file} is not a tokenizer: {error!r}") from error


def as_text(tokenizer: Tokenizer, ids: Iterable[int], before: Sequence[int] = ()) -> Iterator[str]:
    """Yield the text of ids as they come, as soon as characters are complete.

    It continues the text of the ids `before`, so that a word's first space is there. A character
    that is not complete at the end is left out.
    """
    seen = list(before)
    shown = len(tokenizer.decode(seen))
    for number in ids:
        seen.append(number)
        text = tokenizer.decode(seen)
        end = len(text) - text.endswith(UNFINISHED)  # one for what may still become a character
        if end > shown:
            yield text[shown:end]
            shown = end
        whole = len(seen) > 4 * CONTEXT and end == len(text)
        if whole and (start := tokenizer.decode(seen[-CONTEXT:])):
            seen, shown = seen[-CONTEXT:], len(start)
    text = tokenizer.decode(seen)
    half = text.endswith(UNFINISHED) and tokenizer.encode(text)[-3:] != seen[-3:]  # or it was meant
    yield text[shown : len(text) - half]
