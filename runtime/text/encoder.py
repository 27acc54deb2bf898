"""Text to ids by a tokenizer.json, many pieces at once."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.files import parse_object, read_text
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import TOKENIZER
from ringlet.runtime.text.pieces import Piece

AROUND = 256
"""Characters on both sides of a cut that are encoded with and without it."""

ENDS = (
    "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[EOS]", "<end_of_text>",
)  # fmt: skip
"""How tokenizers call the end of a text, if nothing beside them says it."""


class Encoder:
    """A tokenizer.json, by the tokenizers library. Raises TextError.

    A document's ids are those of the library for it alone, without truncation or padding, and then
    the end of text. `unknown` is the id of what the tokenizer has no ids for, if there is such an
    id; `end` is the end of text and `end_of_text` its id: what a tokenizer_config.json
    beside the file calls eos_token, or else a special token with a usual name.
    """

    def __init__(self, file: Path, end: str = "") -> None:
        # Or the library warns whoever forks afterwards.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self.file = file
        library = library_of("--tokenizer")
        with refusals(f"{file} is not a tokenizer"):
            self._library: Any = library.Tokenizer.from_str(read_text(file))
            self._library.no_truncation()
            self._library.no_padding()
            vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values(), default=-1) + 1
        self.end = end or self._end(vocabulary)
        if self.end not in vocabulary:
            raise TextError(f"{file} has no token {self.end}: name another with --end-of-text")
        self.end_of_text: int = vocabulary[self.end]
        self.dtype = "<u2" if self.vocab_size <= 1 << 16 else "<u4"
        self._encode = getattr(
            self._library, "encode_batch_fast", self._library.encode_batch
        )  # the former since 0.20
        self.unknown = vocabulary.get(getattr(self._library.model, "unk_token", None) or "")
        self._before, self._after = self._around()
        self._cuts = True
        self._cuts = self.may_cut("some words\nand others", 11)

    def _end(self, vocabulary: dict[str, int]) -> str:
        config = self.file.parent / "tokenizer_config.json"
        with contextlib.suppress(OSError, ValueError):
            named = parse_object(read_text(config)).get("eos_token")
            named = named.get("content") if isinstance(named, dict) else named
            if isinstance(named, str) and named in vocabulary:
                return named
        for name in ENDS:
            if name in vocabulary:
                return name
        raise TextError(
            f"{self.file} does not say which token ends a text: name one of its tokens with "
            "--end-of-text of `ringlet data build`"
        )

    def _around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after every text."""
        bare, whole = self._ids("a", False), self._ids("a", True)
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                after = whole[start + len(bare) :]
                return whole[:start], after if after[-1:] == [self.end_of_text] else [
                    *after, self.end_of_text,
                ]  # fmt: skip
        raise TextError(f"{self.file} changes a text's ids when it adds its special tokens")

    def _ids(self, text: str, special: bool) -> list[int]:
        with refusals(f"{self.file} makes no ids of the text"):
            return list(self._library.encode(text, add_special_tokens=special).ids)

    def may_cut(self, text: str, place: int) -> bool:
        """Whether the ids are the same with a cut there; never for a tokenizer that marks a text's
        beginning."""
        if not self._cuts:
            return False
        before, after = text[max(0, place - AROUND) : place], text[place : place + AROUND]
        return self._ids(before + after, False) == self._ids(before, False) + self._ids(
            after, False
        )

    def encode(self, batch: Sequence[Piece]) -> tuple[Array, list[int]]:
        """The ids of some pieces in a row, and how many each has."""
        with refusals(f"{self.file} makes no ids of the text"):
            found = self._encode([piece.text for piece in batch], add_special_tokens=False)
        parts = []
        for piece, one in zip(batch, found, strict=True):
            ids = np.array(one.ids, self.dtype)
            if piece.first or piece.last:
                before, after = self._before * piece.first, self._after * piece.last
                ids = np.concatenate([np.array(x, self.dtype) for x in (before, ids, after)])
            parts.append(ids)
        return np.concatenate(parts), [len(ids) for ids in parts]


def library_of(option: str) -> Any:
    """The tokenizers library; raises TextError without it."""
    try:
        import tokenizers
    except ImportError as error:
        raise TextError(
            f"{option} needs the tokenizers library: pip install 'ringlet[tokenizers]'"
        ) from error
    return tokenizers


def tokenizer_file(path: Path) -> Path:
    """A tokenizer.json, or the one in a folder."""
    return path / TOKENIZER if path.is_dir() else path


@contextlib.contextmanager
def refusals(what: str, kind: type[Exception] = TextError) -> Iterator[None]:
    """Errors of the library, which raises Exception itself, and where it panics BaseException, as
    those of a kind."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except OSError as error:
        raise kind(f"{what}: {error.strerror or error}") from error
    except BaseException as error:
        raise kind(f"{what}: {error}") from error
