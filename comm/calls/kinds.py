"""Kinds of calls: what is found out once, by the first of those that are alike.

A call looks up its kind by what its caller passes, and has then been checked: what follows finds
the signature, the transport, and what that keeps for the next of them, at hand.
"""

import weakref
from typing import Any, NamedTuple, Protocol

from ringlet.comm.arrays import check_array
from ringlet.comm.protocols import Task, Transport
from ringlet.comm.signature import CUT, ROWS, Signature, signature_of

MOST_KINDS = 1024
"""So many are kept for a group."""


class Kind(NamedTuple):
    """One kind; `nbytes` is for errors."""

    signature: Signature
    task: Task
    transport: Transport
    nbytes: int


class Chooser(Protocol):
    """Knows the transports of a group."""

    def way(self, operation: str, name: str) -> tuple[Transport, str]:
        """What runs an operation, and by which algorithm: the one of this name, or the pinned one,
        or an empty text if the transport chooses. Raises ValueError if the group cannot use it."""


class Kinds:
    """The kinds of the calls of a group of `size` ranks. The chooser, which may have them, goes
    without waiting for the cycle collector."""

    def __init__(self, size: int, chooser: Chooser) -> None:
        self._size, self._chooser = size, weakref.proxy(chooser)
        self._known: dict[tuple[Any, ...], Kind] = {}

    def of_array(self, operation: str, x: Any, op: str = "", root: int | None = None) -> Kind:
        """The kind of a call on an array; raises as `check_array` and `check_op`, and ValueError
        for a shape that ranks cannot share."""
        try:
            return self._known[operation, type(x), x.dtype, x.shape, op, root]
        except (AttributeError, KeyError, TypeError):  # the first of its kind, or a mistake
            check_array(x)
        size, shape = self._size, x.shape
        signature = signature_of(operation, x.dtype, shape, op, root)
        if operation in CUT and (not shape or shape[0] % size):
            raise ValueError(f"the first axis of {shape} cannot be cut into {size} parts")
        if operation == "scatter" and shape[:1] != (size,):
            raise ValueError(f"scatter needs one row for each of {size} ranks: {shape}")
        nbytes = x.nbytes * (size if operation in ROWS else 1)
        kind = self.of(signature, op, root or 0, nbytes)
        return self._keep((operation, type(x), x.dtype, shape, op, root), kind)

    def of(
        self, signature: Signature, op: str = "", root: int = 0, nbytes: int = 0, name: str = ""
    ) -> Kind:
        """The kind of calls with this signature. `name`, of an algorithm, is a part of it."""
        if (kind := self._known.get(signature)) is not None:
            return kind
        transport, algorithm = self._chooser.way(signature.operation, name)
        task = Task(signature.operation, op, root, algorithm)
        return self._keep(signature, Kind(signature, task, transport, nbytes))

    def by(self, kind: Kind, name: str) -> Kind:
        """The same by the algorithm of this name, on which ranks must agree, too."""
        signature, task = kind.signature, kind.task
        if (known := self._known.get((signature, name))) is not None:
            return known
        _, algorithm = self._chooser.way(task.operation, name)
        detail = ", ".join(filter(None, (signature.detail, algorithm)))
        asked = signature._replace(detail=detail)
        kind = self.of(asked, task.op, task.root, kind.nbytes, algorithm)
        return self._keep((signature, name), kind)

    def clear(self) -> None:
        """Find out all of it anew."""
        self._known.clear()

    def _keep(self, key: tuple[Any, ...], kind: Kind) -> Kind:
        if len(self._known) >= MOST_KINDS:
            self._known.clear()
        self._known[key] = kind
        return kind
