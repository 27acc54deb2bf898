"""Which memory was changed in place, and when: backward refuses what it needs and was changed.

Whatever changes a tensor in place (operators, methods, item assignment, initial values,
load_state_dict, optimizers) says so with `changed`. Operations and changes take their numbers from
one counter, so an array is stale for an operation that kept it if its memory was changed under a
higher number. Recording costs nothing, and backward one comparison for each operation.

Changes are known by bytes: views share them with their base. As in PyTorch, what is written to
`tensor.data` or to a NumPy array that shares its memory is not seen.
"""

import itertools
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

from ringlet.nn.backend import Array, chosen, copy_from_host, xp

numbers = itertools.count(1)
"""Of recorded operations and of changes, in their order."""

RECENT = 16
"""Changes of the same bytes whose numbers are remembered, for the error's text."""


class Piece:
    """Bytes that were changed: how often, and the numbers of the latest changes."""

    __slots__ = ("count", "recent")

    def __init__(self) -> None:
        self.count, self.recent = 0, deque[int](maxlen=RECENT)


class Changes:
    """All changes, by the array that owns the memory (for as long as it lives), and by bytes."""

    def __init__(self) -> None:
        self.latest = 0
        """The latest change's number: operations above it have nothing to fear."""

        self._memories: dict[int, tuple[weakref.ref[Any], dict[tuple[int, int], Piece]]] = {}

    def add(self, array: Array) -> None:
        """Note that an array was changed."""
        owner, start, stop = chosen().memory(array)
        key = id(owner)
        if key not in self._memories:
            gone = weakref.ref(owner, lambda _: self._memories.pop(key, None))
            self._memories[key] = gone, {}
        piece = self._memories[key][1].setdefault((start, stop), Piece())
        self.latest = next(numbers)
        piece.count += 1
        piece.recent.append(self.latest)

    def versions(self, array: Array, number: int) -> tuple[int, int]:
        """How often an array was changed: until now, and before `number`."""
        owner, start, stop = chosen().memory(array)
        _, pieces = self._memories.get(id(owner), (None, {}))
        met = [piece for (a, b), piece in list(pieces.items()) if a < stop and start < b]
        now = sum(piece.count for piece in met)
        return now, now - sum(later > number for piece in met for later in piece.recent)


changes = Changes()
changed = changes.add


def write(array: Array, values: Array) -> None:
    """Write values, the host's or the backend's, into an array, and note the change."""
    copy_from_host(array, values)
    changed(array)


def refuse_stale(name: str, number: int, kept: Any) -> None:
    """Raise RuntimeError if something that an operation kept was changed after it ran."""
    for array in arrays_in(kept):
        now, then = changes.versions(array, number)
        if now != then:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: an array of {array.dtype} {array.shape} that {name} kept is "
                f"at version {now}; expected version {then} instead. Change it after backward(), "
                "or a copy of it (clone()), or make a new tensor (x = x + 1)"
            )


def arrays_in(kept: Any) -> Iterator[Array]:
    """The arrays among what an operation kept: in containers, and in tensors and other objects
    of nn.autograd."""
    if isinstance(kept, xp.ndarray):
        yield kept
    elif isinstance(kept, tuple | list):
        for part in kept:
            yield from arrays_in(part)
    elif isinstance(kept, dict):
        yield from arrays_in(list(kept.values()))
    elif hasattr(kept, "is_parameter"):
        yield kept.data
    elif type(kept).__module__.startswith("ringlet.nn.autograd") and hasattr(kept, "__dict__"):
        yield from arrays_in(vars(kept))
