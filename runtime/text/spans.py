"""Parts of folders in a row, as training reads them: contexts at any place."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from ringlet.nn.backend import Array
from ringlet.runtime.text.folder import TextFolder


class Span(NamedTuple):
    """The tokens of a folder from one to another."""

    folder: TextFolder
    start: int
    stop: int

    @property
    def bytes_per_token(self) -> float:
        """How much text is in it."""
        found = self.folder.bytes_until(self.stop) - self.folder.bytes_until(self.start)
        return found / max(1, self.stop - self.start)


class Spans:
    """Spans one after the other; a place is an offset from the beginning of the first. `bases` are
    the offsets at which they begin."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = list(spans)
        lengths = [span.stop - span.start for span in spans]
        self.bases = np.array([0, *accumulate(lengths)], np.int64)

    def __len__(self) -> int:
        return int(self.bases[-1])

    def rows(self, offsets: Array, length: int) -> Array:
        """The tokens of contexts that begin at the offsets: (len(offsets), length) int64."""
        rows = np.empty((len(offsets), length), np.int64)
        for row, (folder, start) in zip(rows, self._found(offsets), strict=True):
            row[:] = folder.take(start, start + length)
        return rows

    def documents(self, offsets: Array, length: int) -> Array:
        """A number for each of these tokens, the same within a document and no other beside it.

        The end of a text counts as the beginning of the next one: it says nothing of the text
        before, and the first token is predicted from it.
        """
        places = self._found(offsets)
        steps = np.arange(1, length + 1)
        rows = [folder.documents_of(start + steps) for folder, start in places]
        return np.array(rows, np.int64).reshape(len(places), length)

    def parts(self, offsets: Array) -> Array:
        """In which of the spans the offsets are."""
        return np.searchsorted(self.bases, offsets, side="right") - 1

    def bytes_per_token(self, offsets: Array) -> float:
        """How much text a token of contexts at these offsets has, on the average."""
        counts = np.bincount(self.parts(offsets), minlength=len(self.spans))
        each = [span.bytes_per_token for span in self.spans]
        return float(np.average(each, weights=counts))

    def _found(self, offsets: Array) -> list[tuple[TextFolder, int]]:
        parts = self.parts(offsets)
        starts = [span.start for span in self.spans]
        return [
            (self.spans[part].folder, int(offset - self.bases[part]) + starts[part])
            for part, offset in zip(parts.tolist(), offsets.tolist(), strict=True)
        ]
