"""What operations keep of their inputs."""

from typing import Any


class Source:
    """Where an operation's input came from. It does not keep the input's array: an operation
    keeps only what its backward needs."""

    __slots__ = ("dtype", "operation", "shape")

    def __init__(self, tensor: Any) -> None:
        self.operation, data = tensor.operation, tensor.data
        self.shape, self.dtype = data.shape, data.dtype


UNNEEDED = Source.__new__(Source)
"""In place of an input that needs no gradient."""
UNNEEDED.operation = None
