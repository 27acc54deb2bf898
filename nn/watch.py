"""Watch every operation, for debugging and counting. It costs nothing when nobody watches."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.module import Module

Watcher: TypeAlias = Callable[[Operation, tuple[Tensor, ...], Tensor, list[Module]], None]
"""Called with the operation, its inputs, its result and the modules around it, outermost first."""


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` after each operation inside the block. For one thread at a time."""
    plain, plain_module = Operation.__call__, Module.__call__
    around: list[Module] = []

    def call(self: Operation, *inputs: Tensor) -> Tensor:
        result = plain(self, *inputs)
        watcher(self, inputs, result, around)
        return result

    def call_module(self: Any, *args: Any, **kwargs: Any) -> Any:
        around.append(self)
        try:
            return plain_module(self, *args, **kwargs)
        finally:
            around.pop()

    Operation.__call__, Module.__call__ = call, call_module  # type: ignore[method-assign]
    try:
        yield
    finally:
        Operation.__call__ = plain  # type: ignore[method-assign]
        Module.__call__ = plain_module  # type: ignore[method-assign]


def location(around: list[Module]) -> str:
    """Where an operation ran, for a message."""
    if not around:
        return "outside any module"
    return f"in {around[-1].path or 'the model'} ({type(around[-1]).__name__})"
