"""Activations and their gradients on the wire, encoded: between stages, and inside of layers.

There is no error feedback: the next micro-batch's activations have nothing to do with this one's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ringlet.comm import Group
from ringlet.comm.calls.work import Work
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.compression.codecs import Codec
from ringlet.runtime.compression.collectives import all_gather, all_reduce, reduce_scatter
from ringlet.runtime.tensor.regions import Pending, Ready

AXES = 3
"""Activations are (B, T, C)."""

HEADER = AXES * 8
"""Bytes of a shape in front of the encoded numbers."""


class EncodedCarrier:
    """Collectives in tensor-parallel layers; see wires.Carrier."""

    def __init__(self, group: Group, codec: Codec) -> None:
        self.group, self._codec = group, codec

    def all_reduce(self, x: Array, label: str, fly: bool = False) -> Pending:
        """See Carrier."""
        return self._run(all_reduce, x, label, fly)

    def all_gather(self, x: Array, label: str, fly: bool = False) -> Pending:
        """See Carrier."""
        return self._run(all_gather, x, label, fly)

    def reduce_scatter(self, x: Array, label: str, fly: bool = False) -> Pending:
        """See Carrier."""
        return self._run(reduce_scatter, x, label, fly)

    def _run(self, collective: Callable[..., Any], x: Array, label: str, fly: bool) -> Pending:
        result = collective(self.group, x, self._codec, async_op=fly, label=label)
        work: Pending = result if fly else Ready(result)
        return work


class EncodedTransport:
    """Transfers between the stages of a pipeline; see pipeline.run.Transport."""

    def __init__(self, group: Group, codec: Codec) -> None:
        self._group, self._codec = group, codec

    def send(self, x: Array, rank: int, tag: int) -> Work:
        """See Transport."""
        message = np.empty(HEADER + self._codec.nbytes(x.size), np.uint8)
        message[:HEADER].view(np.int64)[...] = x.shape
        self._codec.encode(x, message[HEADER:])
        return self._group.isend(message, rank, tag)

    def recv(self, rank: int, tag: int) -> Array:
        """See Transport."""
        message = self._group.recv(rank, tag)
        shape = tuple(message[:HEADER].view(np.int64).tolist())
        return self._codec.decode(message[HEADER:], np.empty(shape, np.float32))
