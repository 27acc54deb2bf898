"""What travels: a small msgpack header and the raw bytes of one segment of an array.

The header says which call of which operation the bytes belong to: that is what catches a mismatch.
Most of it is the same in every message of a call, and in calls of one kind: that part is packed,
and read, once. Header and bytes have checksums, so nothing that changed on the way is added up.
"""

import math
import os
import struct
import zlib
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack
import numpy as np

from ringlet.comm.arrays import Array, dtype_named
from ringlet.comm.schedules.schedule import SEGMENT_BYTES
from ringlet.comm.signature import Signature

HEADER_BYTES = 16 * 1024
"""No header is longer."""

MOST_BYTES = max(SEGMENT_BYTES, HEADER_BYTES) + 4096
"""No part of a message is longer: a header, or an array with its seal."""

TAG_BYTES = 16
"""What a seal adds to a header, and to each record of an array."""

RECORD_BYTES = 1 << 20
"""An array is sealed in records of so many bytes, the last of what is left. One leaves, or is added
up, while it is in a cache, and the next is sealed while the peer opens it. On a Zen 5, 16 and 64
MiB take 0.75 of the time that they take in records of 4 MiB, 512 KiB take 0.83 and 1.0 of it."""

COLLECTIVE = -1
"""The stream of a group's collectives; point-to-point streams are the tags, from 0 up."""

CONTROL = -2
"""The stream of notices between endpoints: hello, goodbye, waiting, mismatch."""

MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""The size of this host's memory. No announced array may be larger."""

MAGIC = "ringlet4"
_CHECK = struct.Struct("<I")
_NUMBERS = struct.Struct("<QQ?Q")  # sequence, number, whether there is a checksum, and it

SUMMED_BYTES = 4096
"""From this size the checksum is a sum of words, at the speed of memory: 60 us for 2 MiB, where a
CRC takes 390. Any change inside one word of 8 bytes changes it."""


class Header(NamedTuple):
    """Which call a message belongs to, and its `number` among those that `source` sends this rank
    in the call; `checksum` is of the bytes that follow, None where a seal shows what has changed,
    or they do not leave the host's memory."""

    job: str
    generation: int
    source: int
    group: str
    stream: int
    sequence: int
    signature: Signature
    number: int
    checksum: int | None = 0


class Malformed(ValueError):
    """Bytes from outside that are not a header of this program."""


class Damaged(ValueError):
    """Bytes that are not those that were sent."""


def encode(header: Header) -> bytes:
    """The header's bytes: a checksum, what all messages of a call share, and three numbers."""
    fixed, crc = _fixed(header[:5], header.signature)
    check = header.checksum
    numbers = _NUMBERS.pack(header.sequence, header.number, check is not None, check or 0)
    return _CHECK.pack(zlib.crc32(numbers, crc)) + fixed + numbers


@lru_cache(maxsize=1024)
def _fixed(names: tuple[Any, ...], signature: Signature) -> tuple[bytes, int]:
    """What calls of one kind share, packed, and its checksum."""
    packed: bytes = msgpack.packb((MAGIC, *names, signature))
    return packed, zlib.crc32(packed)


def decode(data: bytes | memoryview) -> Header:
    """The header in the bytes; raises Malformed for anything else."""
    if not _CHECK.size + _NUMBERS.size <= len(data) <= HEADER_BYTES:
        raise Malformed(f"a header of {len(data)} bytes")
    content = bytes(data[_CHECK.size :])
    if _CHECK.unpack_from(data)[0] != zlib.crc32(content):
        raise Malformed("not a header of ringlet, or a damaged one")
    fixed, numbers = content[: -_NUMBERS.size], content[-_NUMBERS.size :]
    job, generation, source, group, stream, signature = _read_fixed(fixed)
    sequence, number, has_checksum, check = _NUMBERS.unpack(numbers)
    checksum = check if has_checksum else None
    return Header(job, generation, source, group, stream, sequence, signature, number, checksum)


@lru_cache(maxsize=256)
def _read_fixed(packed: bytes) -> tuple[str, int, int, str, int, Signature]:
    """The job, generation, source, group, stream and signature."""
    try:
        magic, *fields = msgpack.unpackb(packed, use_list=False)
        if magic != MAGIC:
            raise Malformed("not a header of ringlet")
        job, generation, source, group, stream, signature = fields
        operation, dtype, shape, detail = signature
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed(f"not a header: {error}") from error
    if not all(type(value) is int for value in (generation, source, stream)):
        raise Malformed("a field that should be a number is not")
    if not all(type(text) is str for text in (job, group, operation, dtype, detail)):
        raise Malformed("a field that should be text is not")
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise Malformed("a malformed shape")
    signature = Signature(operation, dtype, shape, detail)
    return job, generation, source, group, stream, signature


def checksum(payload: bytes | memoryview) -> int:
    """Shows whether bytes have changed on the way: any single bit, or any part of a word."""
    if len(payload) < SUMMED_BYTES:
        return zlib.crc32(payload)
    return sum_of_words(np.frombuffer(payload, np.uint8)) % 2**64


def sealed_bytes(nbytes: int) -> int:
    """How long an array of so many bytes is with its seal."""
    return nbytes + TAG_BYTES * (1 if nbytes <= RECORD_BYTES else -(-nbytes // RECORD_BYTES))


def clear_bytes(sealed: int) -> int:
    """The same the other way round; of what no array has, a number that is not it, perhaps
    negative."""
    return sealed - TAG_BYTES * -(-sealed // (RECORD_BYTES + TAG_BYTES))


def sum_of_words(data: Array) -> int:
    """Of bytes; what is left beside whole words counts by its CRC. The checksum of a long payload
    is the sum of those of its parts, if all but the last are whole words."""
    words = data.size // 8 * 8
    return int(np.add.reduce(data[:words].view("<u8"))) + zlib.crc32(data[words:].data)


def allocate(signature: Signature) -> Array:
    """An array as announced; raises Malformed for unknown dtypes and sizes beyond memory."""
    try:
        dtype = dtype_named(signature.dtype)
    except TypeError as error:
        raise Malformed(str(error)) from error
    if math.prod(signature.shape) * dtype.itemsize > MEMORY_BYTES:
        raise Malformed(f"cannot hold {signature.shape} of {signature.dtype!r}")
    return np.empty(signature.shape, dtype)


def segments(array: Array) -> list[Array]:
    """The contiguous 1-D array in views of at most SEGMENT_BYTES; at least one, even if empty.

    They are of bytes where one element, a long text, is more.
    """
    if array.itemsize > SEGMENT_BYTES:
        array = array.view(np.uint8)
    step = max(1, SEGMENT_BYTES // max(1, array.itemsize))
    return [array[start : start + step] for start in range(0, max(1, array.size), step)]
