"""Whether operations are being recorded for a backward pass."""

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["enable_grad", "is_grad_enabled", "no_grad"]


class Mode(threading.local):
    """Each thread's own."""

    grad = True


mode = Mode()


@contextlib.contextmanager
def set_grad_enabled(enabled: bool) -> Iterator[None]:
    """Record operations inside the block, or do not."""
    before, mode.grad = mode.grad, enabled
    try:
        yield
    finally:
        mode.grad = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Record nothing inside the block: results need no gradient and keep no history."""
    return set_grad_enabled(False)


def enable_grad() -> contextlib.AbstractContextManager[None]:
    """Record operations inside the block, even within `no_grad()`."""
    return set_grad_enabled(True)


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return mode.grad
