"""Text to ids and back: bytes, a model's tokenizer.json, or the ids themselves as numbers."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ringlet.runtime.training.corpus import token_bytes

TOKENIZER = "tokenizer.json"
UNFINISHED = "\ufffd"
"""What decoded text ends with while its last character is incomplete."""


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
        try:
            self._library: Any = Library.from_file(str(file))
        except Exception as error:  # the library raises Exception itself
            raise TokenizerError(f"{file} is not a tokenizer: {error}") from error

    def encode(self, text: str) -> list[int]:
        return list(self._library.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        text: str = self._library.decode(list(ids))
        return text


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model's folder; ids as numbers if it has no tokenizer.json."""
    file = folder / TOKENIZER
    return JSONTokenizer(file) if file.is_file() else NumberTokenizer(vocab_size)


def as_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of ids as they come, as soon as characters are complete."""
    seen: list[int] = []
    shown = 0
    for number in ids:
        seen.append(number)
        text = tokenizer.decode(seen)
        # A character has four bytes at most; what is incomplete by then never becomes one.
        end = len(text.rstrip(UNFINISHED)) if len(text) - shown < 4 else len(text)
        if end > shown:
            yield text[shown:end]
            shown = end
    yield tokenizer.decode(seen)[shown:]
