"""Lossy encodings of float32 arrays: 16 or 8 bits for each number instead of 32.

Numbers that are not finite stay so, and finite ones too: those out of range become the largest in
range, and with error feedback the rest follows in the next steps. Arrays are processed in chunks
that fit the second-level cache.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from ringlet.comm.arrays import flat
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.compression.half import cut_to_half, from_half, to_half

CHUNK = 1 << 16
"""Elements at a time: 256 KiB of float32."""

BLOCK = 256
"""Elements of an int8 array that share a scale. CHUNK is a multiple of it."""


class Codec(ABC):
    """float32 to bytes and back, with some loss."""

    name: str

    @abstractmethod
    def nbytes(self, size: int) -> int:
        """How many bytes `size` elements take, exactly."""

    def encode(self, x: Array, out: Array | None = None) -> Array:
        """The bytes of an array of any shape: uint8 (nbytes(x.size),), new or in `out`.

        Raises TypeError unless `x` is float32, ValueError if `out` has another shape or dtype.
        """
        if x.dtype != np.float32:
            raise TypeError(f"{self.name} encodes float32, not {x.dtype}")
        values = flat(x)
        data = np.empty(self.nbytes(x.size), np.uint8) if out is None else out
        self._check(data, x.size)
        planes = self._planes(data, x.size)
        # Numbers that are not finite are results of somebody's sum, not mistakes made here.
        with np.errstate(over="ignore", invalid="ignore"):
            for part in _chunks(x.size):
                self._encode(values[part], planes, part)
        return data

    def decode(self, data: Array, out: Array, add: bool = False) -> Array:
        """Write what `data` encodes into `out`, or add it there; returns `out`.

        `out` is a contiguous float32 array of any shape with as many elements as were encoded.
        Raises ValueError if the bytes are more or fewer than `out` takes.
        """
        if out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"{self.name} decodes into contiguous float32, not {out.dtype}")
        self._check(data, out.size)
        target, planes = out.reshape(-1), self._planes(data, out.size)
        scratch = np.empty(min(out.size, CHUNK) if add else 0, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for part in _chunks(out.size):
                whole = target[part]
                piece = scratch[: whole.size] if add else whole
                self._decode(planes, part, piece)
                if add:
                    whole += piece
        return out

    def feed_back(self, x: Array, residual: Array, out: Array) -> Array:
        """Encode `x + residual` into `out`, which is returned; then `x` is what that decodes to,
        and `residual` what it has lost.

        Both are contiguous float32 arrays of one dimension. A chunk is in the cache all the while.
        """
        self._check(out, x.size)
        planes = self._planes(out, x.size)
        with np.errstate(over="ignore", invalid="ignore"):
            for part in _chunks(x.size):
                values, lost = x[part], residual[part]
                values += lost
                self._split(values, lost, planes, part)
        return out

    def _split(self, x: Array, lost: Array, planes: tuple[Array, ...], part: slice) -> None:
        """Encode one chunk; `x` becomes what that decodes to, and `lost` the rest of it."""
        self._encode(x, planes, part)
        lost[...] = x
        self._decode(planes, part, x)
        lost -= x

    def _check(self, data: Array, size: int) -> None:
        if data.dtype != np.uint8 or data.shape != (self.nbytes(size),):
            raise ValueError(
                f"{size} elements are {self.nbytes(size)} bytes of {self.name}, "
                f"not {data.dtype} {data.shape}"
            )

    @abstractmethod
    def _planes(self, data: Array, size: int) -> tuple[Array, ...]:
        """Views of the arrays that the bytes hold, one after the other."""

    @abstractmethod
    def _encode(self, x: Array, planes: tuple[Array, ...], part: slice) -> None:
        """Encode one chunk, the given part of the whole."""

    @abstractmethod
    def _decode(self, planes: tuple[Array, ...], part: slice, out: Array) -> None:
        """Decode one chunk."""


class _HalfWidth(Codec):
    """A codec with 16 bits for each number."""

    def nbytes(self, size: int) -> int:
        return 2 * size

    def _planes(self, data: Array, size: int) -> tuple[Array, ...]:
        return (data.view(np.uint16),)


class Float16(_HalfWidth):
    """IEEE half precision: 11 bits of precision up to 65,504, fewer below 2^-14, none at 2^-25."""

    name = "float16"
    largest = float(np.finfo(np.float16).max)

    def _encode(self, x: Array, planes: tuple[Array, ...], part: slice) -> None:
        half = planes[0][part]
        if _within(x, self.largest):
            to_half(x, half)
        else:
            half.view(np.float16)[...] = _saturated(x, self.largest)

    def _decode(self, planes: tuple[Array, ...], part: slice, out: Array) -> None:
        from_half(planes[0][part], out)

    def _split(self, x: Array, lost: Array, planes: tuple[Array, ...], part: slice) -> None:
        lost[...] = x
        cut_to_half(x, planes[0][part])
        lost -= x


class BFloat16(_HalfWidth):
    """The upper half of a float32, rounded to nearest even: its whole range, 8 bits of precision.

    Wang and Kanwar, "BFloat16: the secret to high performance on Cloud TPUs" (2019).
    """

    name = "bfloat16"
    largest = (2 - 2.0**-7) * 2.0**127

    def _encode(self, x: Array, planes: tuple[Array, ...], part: slice) -> None:
        ordinary = _within(x, self.largest)
        bits = (x if ordinary else _saturated(x, self.largest)).view(np.uint32)
        # Just below a half is added, or exactly a half where the last bit that stays is odd.
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits
        rounded >>= 16
        half = planes[0][part]
        half[...] = rounded
        if not ordinary:
            half[np.isnan(x)] = 0x7FC0  # rounding may have carried a NaN's bits into its sign

    def _decode(self, planes: tuple[Array, ...], part: slice, out: Array) -> None:
        np.left_shift(planes[0][part], 16, out=out.view(np.uint32), dtype=np.uint32)

    def _split(self, x: Array, lost: Array, planes: tuple[Array, ...], part: slice) -> None:
        # Cut off, not rounded: nothing is out of range then, and what is lost is added later.
        lost[...] = x
        bits = x.view(np.uint32)
        np.right_shift(bits, 16, out=planes[0][part], casting="unsafe")
        bits &= 0xFFFF0000
        lost -= x


class Int8(Codec):
    """Steps of 1/127 of the largest absolute value in each block of 256 elements.

    Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit optimizers via block-wise quantization"
    (2022), section 2.1, with evenly spaced steps. First the blocks' scales (float32), then the
    numbers of steps (int8). A block with an element that is not finite is NaN as a whole; one
    whose elements are all below 2^-119 is zero.
    """

    name = "int8"
    steps = 127
    smallest = 2.0**-119
    """Below it the scale would be no normal number."""

    largest_scale = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))
    """Above it 127 steps would be infinity."""

    def nbytes(self, size: int) -> int:
        return size + 4 * _blocks(size)

    def _planes(self, data: Array, size: int) -> tuple[Array, ...]:
        border = 4 * _blocks(size)
        return data[:border].view(np.float32), data[border:].view(np.int8)

    def _encode(self, x: Array, planes: tuple[Array, ...], part: slice) -> None:
        self._steps(x, planes, part, np.empty_like(x))

    def _split(self, x: Array, lost: Array, planes: tuple[Array, ...], part: slice) -> None:
        steps = np.empty_like(x)
        self._steps(x, planes, part, steps)
        lost[...] = x
        for whole, scale, out in _by_block(steps, planes[0][_blocks_of(part)].copy(), x):
            np.multiply(whole, scale, out=out)
        lost -= x

    def _steps(self, x: Array, planes: tuple[Array, ...], part: slice, work: Array) -> None:
        """Encode one chunk; its numbers of steps are left in `work`, too."""
        scales, numbers = planes
        np.abs(x, out=work)
        largest = np.maximum.reduceat(work, np.arange(0, x.size, BLOCK))
        usable = (largest >= self.smallest) & np.isfinite(largest)
        per_step = np.zeros_like(largest)
        np.divide(self.steps, largest, out=per_step, where=usable)
        for values, factors, whole in _by_block(x, per_step, work):
            np.multiply(values, factors, out=whole)
        np.rint(work, out=work)
        np.copyto(numbers[part], work, casting="unsafe")
        scale = np.minimum(largest / self.steps, self.largest_scale)
        unusable = np.where(largest < self.smallest, np.float32(0), np.float32(np.nan))
        scales[_blocks_of(part)] = np.where(usable, scale, unusable)

    def _decode(self, planes: tuple[Array, ...], part: slice, out: Array) -> None:
        scales, numbers = planes
        # Copied, as the bytes may lie at any address.
        for steps, scale, whole in _by_block(numbers[part], scales[_blocks_of(part)].copy(), out):
            np.multiply(steps, scale, out=whole)


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Float16(), BFloat16(), Int8())}


def make_codec(name: str) -> Codec:
    """The codec of this name; raises ValueError, with what there is, for an unknown one."""
    if name not in CODECS:
        raise ValueError(f"there is no codec {name!r}; there are {', '.join(CODECS)}")
    return CODECS[name]


def _within(x: Array, largest: float) -> bool:
    """Whether all values are numbers of at most this magnitude."""
    return bool(-largest <= x.min() and x.max() <= largest)


def _saturated(x: Array, largest: float) -> Array:
    """Finite numbers limited to the range; infinities and NaN as they are."""
    return np.where(np.isinf(x), x, np.clip(x, -largest, largest)).astype(np.float32, copy=False)


def _chunks(size: int) -> Iterator[slice]:
    for start in range(0, size, CHUNK):
        yield slice(start, min(start + CHUNK, size))


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _blocks_of(part: slice) -> slice:
    return slice(part.start // BLOCK, _blocks(part.stop))


def _by_block(x: Array, factors: Array, out: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Whole blocks as rows (blocks, 256) beside their factors (blocks, 1), then the short one."""
    whole = x.size // BLOCK
    border = whole * BLOCK
    if whole:
        rows = -1, BLOCK
        yield x[:border].reshape(rows), factors[:whole, None], out[:border].reshape(rows)
    if border < x.size:
        yield x[border:], factors[whole:], out[border:]
