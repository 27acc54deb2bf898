"""float32 to half precision and back, by their bits.

NumPy's own conversion takes 30 times as long for numbers below 2^-14, which are subnormal in half
precision; gradients are full of them. The roundings are those of Giesen, "float to half
conversion" (2012), on whole arrays and without a branch.
"""

from functools import cache

import numpy as np

from ringlet.nn.autograd.tensor import Array

NORMAL = np.uint32(113 << 23)
"""The bits of 2^-14, half precision's smallest normal number, as float32."""

BIAS = np.uint32((0xFFF - (112 << 23)) % (1 << 32))
"""From float32's exponents to half precision's, and just below a half of the last bit."""

CUT = 23 - 10
"""Bits of a float32 that half precision has no room for."""


def to_half(x: Array, out: Array) -> None:
    """Round finite float32 `x`, at most 65,504, to nearest even; the bits go to uint16 `out`."""
    bits = x.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    # Beside a half the last bit of float32 is 2^-24, the step of the subnormal numbers: the
    # addition rounds to it.
    half = np.float32(0.5)
    subnormal = (magnitude.view(np.float32) + half).view(np.uint32)
    subnormal -= half.view(np.uint32)
    result = magnitude >> 13
    result &= 1  # exactly a half is added where the last bit that stays is odd
    result += magnitude
    result += BIAS
    result >>= 13
    # All bits where the number is subnormal: the difference is negative there.
    magnitude -= NORMAL
    below = magnitude.view(np.int32)
    below >>= 31
    subnormal ^= result
    subnormal &= magnitude
    result ^= subnormal
    bits = np.right_shift(bits, 16, out=subnormal)
    bits &= 0x8000
    result |= bits
    out[...] = result


def from_half(bits: Array, out: Array) -> None:
    """The float32 numbers, exactly, that uint16 `bits` of half precision stand for."""
    # Every index is in the table; "wrap" only spares NumPy the check.
    np.take(_table(), bits, out=out, mode="wrap")


def cut_to_half(x: Array, out: Array) -> None:
    """Cut float32 `x` off after half precision's bits, below 2^-14 to the nearest; they go to
    uint16 `out`, and `x` becomes what they stand for. What is out of range is the largest in it."""
    places = np.right_shift(x.view(np.uint32), CUT, out=np.empty(x.size, np.intp), casting="unsafe")
    halves, numbers = _cut_tables()
    np.take(halves, places, out=out, mode="wrap")
    np.take(numbers, places, out=x, mode="wrap")


@cache
def _table() -> Array:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


@cache
def _cut_tables() -> tuple[Array, Array]:
    """By the upper bits of a float32: half precision's, and the number that these stand for.
    Gradients are of a few magnitudes, so that of 3 MiB a few hundred KiB are in use."""
    x = (np.arange(1 << (32 - CUT), dtype=np.uint32) << CUT).view(np.float32)
    largest = float(np.finfo(np.float16).max)
    with np.errstate(invalid="ignore"):
        halves = np.where(np.isinf(x), x, np.clip(x, -largest, largest)).astype(np.float16)
    return halves.view(np.uint16), halves.astype(np.float32)
