"""Documents in pieces: a long one is cut where its tokenizer makes the same ids with and without
the cut, so that no more of it is in memory than a few pieces."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.sources import Stream

LONG = 1 << 16
"""Characters from which a document is cut. What the tokenizers library keeps for a text is a
hundred times as large."""

MOST = 1 << 23
"""Characters of a document that cannot be cut, at most."""

TRIED = 16
"""So many places for a cut are tried."""

MARKS = (("\n", 1), (" ", 0))
"""A cut may be after the end of a line, or else before a space, that stands between other text."""


class Piece(NamedTuple):
    """A document, or some of it, and whether it begins and ends here."""

    text: str
    first: bool
    last: bool


def pieces(stream: Stream, may_cut: Callable[[str, int], bool], name: str) -> Iterator[Piece]:
    """The documents of a stream, those longer than LONG in pieces of about that; `may_cut` says
    whether the tokenizer allows a cut before a character. An empty document is an empty piece.
    Raises TextError for a document longer than MOST that cannot be cut."""
    text, first = "", True
    for part in stream:
        if part:
            text += part
            start = 0
            while len(text) - start > 2 * LONG:
                stop = _place(text, start, may_cut)
                if stop is None:
                    if len(text) - start > MOST:
                        raise TextError(
                            f"{name} has a document of more than {MOST:,} characters that cannot "
                            "be cut, as its tokenizer joins text across lines and words: divide "
                            "it, as with --separator"
                        )
                    break
                yield Piece(text[start:stop], first, False)
                start, first = stop, False
            text = text[start:] if start else text
        elif part is None:
            yield Piece(text, first, True)
            text, first = "", True


def _place(text: str, start: int, may_cut: Callable[[str, int], bool]) -> int | None:
    """Where the next piece ends."""
    half = LONG // 2
    for least, (mark, after) in product(range(start + half, len(text) - LONG, half), MARKS):
        place = least + half
        for _ in range(TRIED):
            place = text.rfind(mark, least, place)
            if place < 0:
                break
            between = not (text[place - 1].isspace() or text[place + 1].isspace())
            if between and may_cut(text, place + after):
                return place + after
    return None
