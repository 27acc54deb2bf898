"""What modules learn, and whether new ones draw its initial values."""

import contextlib
import threading
from collections.abc import Iterable, Iterator

from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, stand_in


class _Construction(threading.local):
    draws = True


construction = _Construction()


@contextlib.contextmanager
def uninitialized() -> Iterator[None]:
    """Create modules inside the block without drawing initial values; the caller sets them."""
    before, construction.draws = construction.draws, False
    try:
        yield
    finally:
        construction.draws = before


def hollow(parameters: Iterable["Parameter"]) -> None:
    """Leave of the parameters what takes no memory: shapes and dtypes."""
    for parameter in parameters:
        parameter.data = stand_in(parameter.shape, parameter.dtype)


class Parameter(Tensor):
    """A tensor that a module learns. Its gradient may be a view into a flat buffer."""

    __slots__ = ()

    is_parameter = True

    def __init__(self, data: Array | Tensor, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)
