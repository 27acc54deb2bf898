"""Encoded activations and gradients of activations: inside layers, and between pipeline stages.

There is no error feedback: what one micro-batch's activations lose does not concern the next.
"""

from functools import partial

import numpy as np

from ringlet.comm import Group, Work
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.compression import collectives
from ringlet.runtime.compression.codecs import Codec

AXES = 3
"""Activations are (B, T, C)."""

HEADER = AXES * 8
"""Bytes of the shape in front of the encoded numbers."""


class EncodedCollectives:
    """The collectives of tensor-parallel layers; see device_collectives.Collectives."""

    def __init__(self, codec: Codec) -> None:
        self.all_reduce = partial(collectives.all_reduce, codec=codec)
        self.all_gather = partial(collectives.all_gather, codec=codec)
        self.reduce_scatter = partial(collectives.reduce_scatter, codec=codec)


class EncodedTransport:
    """Transfers between the stages of a pipeline; see pipeline.run.Transport."""

    def __init__(self, group: Group, codec: Codec) -> None:
        self._group, self._codec = group, codec

    def send(self, x: Array, rank: int, tag: int) -> Work:
        message = np.empty(HEADER + self._codec.nbytes(x.size), np.uint8)
        message[:HEADER].view(np.int64)[...] = x.shape
        self._codec.encode(x, message[HEADER:])
        return self._group.isend(message, rank, tag)

    def recv(self, rank: int, tag: int) -> Array:
        message = self._group.recv(rank, tag)
        shape = tuple(message[:HEADER].view(np.int64).tolist())
        return self._codec.decode(message[HEADER:], np.empty(shape, np.float32))
