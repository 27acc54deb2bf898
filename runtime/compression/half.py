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
    # Every index is in the table; "clip" only spares NumPy the check.
    np.take(_table(), bits, out=out, mode="clip")


@cache
def _table() -> Array:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
