"""16-bit numbers in fewer bytes, without loss: for links that are slower than a processor codes.

The upper byte of a float16 or a bfloat16 has the sign and most of the exponent; of a gradient's
numbers it carries 3.5 to 6 bits. So the upper bytes are Huffman-coded by themselves (RFC 1951, by
the standard library), and the lower ones travel as they are: 0.7 to 0.8 of the bytes in all.
Hershcovitch et al., "ZipNN: lossless compression for AI models" (2024).
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ringlet.comm import Group, Work
from ringlet.nn.autograd.tensor import Array

SPARED = {"float16": 0.4, "bfloat16": 0.6}
"""Bytes that packing spares of each number, in the gradients of a small GPT."""

PACK_S = 10e-9
"""Seconds to pack a number and to unpack one, on one core of a Xeon with AVX-512."""

TAG = 1 << 20
"""Of the transfers, so that they are nobody else's in the group."""

RAW = -zlib.MAX_WBITS
"""Without a header and a checksum."""


def pays(group: Group, codec: str) -> bool:
    """Whether the link as it is now makes packing worth its time (a collective, the same on all
    ranks). No bit of a sum depends on it."""
    if codec not in SPARED or group.size == 1 or group.shares_memory:
        return False
    return SPARED[codec] / group.measure_links().network.bandwidth > PACK_S


def pack(data: Array) -> Array:
    """The bytes of 16-bit numbers, uint8 (2 n,), in fewer: uint8, of any length above n."""
    lower, upper = np.ascontiguousarray(data.reshape(-1, 2).T)
    code = zlib.compressobj(1, zlib.DEFLATED, RAW, strategy=zlib.Z_HUFFMAN_ONLY)
    parts = (lower.data, code.compress(upper.data), code.flush())
    return np.frombuffer(b"".join(parts), np.uint8)


def unpack(packed: Array, out: Array) -> Array:
    """Write what was packed into `out`, uint8 (2 n,), which is returned; raises ValueError for
    bytes that are of no n numbers."""
    count = out.size // 2
    code = zlib.decompressobj(RAW)
    try:
        upper = code.decompress(packed[count:].data, count + 1)
    except zlib.error as error:
        raise ValueError(f"packed numbers cannot be read: {error}") from error
    if packed.size < count or len(upper) != count or not code.eof or code.unused_data:
        raise ValueError(f"{packed.size} packed bytes are not those of {count} numbers")
    pairs = out.reshape(-1, 2)
    pairs[:, 0], pairs[:, 1] = packed[:count], np.frombuffer(upper, np.uint8)
    return out


class PackedGroup:
    """A group in which rows of 16-bit numbers travel packed, from each rank to each other.

    A packed row's length is not known to whoever receives it: these are transfers, no collectives.
    """

    def __init__(self, group: Group) -> None:
        self._group, self.rank, self.size = group, group.rank, group.size

    def all_gather(
        self, x: Array, *, out: Array | None = None, async_op: bool = True, label: str = ""
    ) -> Any:
        """Row x of each rank: uint8 (size, x.size)."""
        rows = np.empty((self.size, x.size), np.uint8) if out is None else out
        rows[self.rank] = x
        packed = pack(x)
        return self._exchange(dict.fromkeys(self._others, packed), rows, async_op)

    def all_to_all(self, x: Array, *, async_op: bool = True, label: str = "") -> Any:
        """Rows for the other ranks are exchanged for theirs: uint8 (size, k), in place."""
        return self._exchange({rank: pack(x[rank]) for rank in self._others}, x, async_op)

    @property
    def _others(self) -> list[int]:
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def _exchange(self, packed: Mapping[int, Array], rows: Array, async_op: bool) -> Any:
        works = {rank: self._group.irecv(rank, TAG) for rank in packed}
        sent = [self._group.isend(data, rank, TAG) for rank, data in packed.items()]
        exchange = _Exchange(works, sent, rows)
        return exchange if async_op else exchange.wait()


class _Exchange:
    """Packed rows on their way."""

    def __init__(self, works: Mapping[int, Work], sent: list[Work], rows: Array) -> None:
        self._works, self._sent, self._rows = works, sent, rows

    def wait(self, timeout: float | None = None) -> Array:
        for rank, work in self._works.items():
            unpack(work.wait(timeout), self._rows[rank])
        for work in self._sent:
            work.wait(timeout)
        return self._rows

    def done(self) -> bool:
        return all(work.done() for work in (*self._works.values(), *self._sent))
