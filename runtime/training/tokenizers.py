"""Text to ids and back: bytes, a model's tokenizer.json, or the ids themselves as numbers."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from ringlet.nn.files import read_text
from ringlet.runtime.training.corpus import token_bytes

TOKENIZER = "tokenizer.json"
UNFINISHED = "\ufffd"
"""What decoded text ends with while its last character is incomplete."""

CONTEXT = 16
"""How many earlier ids the new ones are decoded with, at least: a space may depend on them."""

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
        with self._refusals("is not a tokenizer"):
            self._library: Any = Library.from_str(read_text(file))
            added = self._library.get_added_tokens_decoder()
            self._special = {number for number, token in added.items() if token.special}
            decoder = self._library.decoder
            self._has_bytes = decoder is not None and decoder.decode(["<0x41>"]) == "A"

    @contextlib.contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Errors of the library, which raises Exception itself, and where it panics BaseException,
        as TokenizerError."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            raise TokenizerError(f"{self._file} {what}: {error}") from error

    def encode(self, text: str) -> list[int]:
        with self._refusals("makes no ids of the text"):
            return list(self._library.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        with self._refusals("makes no text of the ids"):
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


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model's folder; ids as numbers if it has no tokenizer.json."""
    file = folder / TOKENIZER
    return JSONTokenizer(file) if os.path.lexists(file) else NumberTokenizer(vocab_size)


def as_text(tokenizer: Tokenizer, ids: Iterable[int], before: Sequence[int] = ()) -> Iterator[str]:
    """Yield the text of ids as they come, as soon as characters are complete.

    It continues the text of the ids `before`, so that a word's first space is there.
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
    yield tokenizer.decode(seen)[shown:]
