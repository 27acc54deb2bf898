"""The library that computes with arrays, and where they live: NumPy on the host or CuPy on a GPU.

A process has one backend, chosen once by `use`, before its first tensor. The operations take
their functions from `xp`, which has the names of the backend's own module: `xp.exp` is `numpy.exp`
by default. A call costs no more than one of the module itself.

Data lives in the backend's memory. Ids, targets, indices, positions and masks may come from the
host: they are checked there, where reading them is free, and then moved. Everything else moves
through `asarray` and `to_host` alone.
"""

import contextlib
import math
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ringlet.nn import mkl

if TYPE_CHECKING:
    xp = np
else:
    xp = types.ModuleType("ringlet.nn.backend.xp", "The functions of the chosen backend.")

__all__ = ["Backend", "BackendError", "Device", "MixedArrays", "asarray", "to_host", "use"]

Array: TypeAlias = npt.NDArray[Any]

ERF_ABOVE = (
    -1.279959062e-08, 4.609189151e-06, 0.000376757757, 0.003838636339,
    0.05424400606, 0.1851357301, 1.128379169,
)  # fmt: skip
ERF_BELOW = 6.239876224e-05, 0.001301526152, 0.01543007053, 0.1138739109, 0.4974056751, 1.0
"""erf(x) / x as a ratio of polynomials of x^2, from the highest power down: a weighted
least-squares fit over |x| < 3.92, to a relative error of 2e-9."""

ERF_BLOCK = 1 << 13

LINE = 64  # bytes of a cache line

LARGE_BLOCK = 1 << 24
"""Elements in each block on a device: enough to keep it busy, few enough for scratch memory."""


class BackendError(RuntimeError):
    """The backend is not available, or another was chosen; the message says why."""


class MixedArrays(TypeError):
    """Host and device arrays met in one operation; the message names both."""


@dataclass(frozen=True)
class Device:
    """A place of arrays: Device("cpu"), Device("cuda", 0) or Device("cuda:0"), as torch.device."""

    type: str
    index: int | None = None

    def __post_init__(self) -> None:
        kind, _, number = self.type.partition(":")
        if number:
            object.__setattr__(self, "type", kind)
            object.__setattr__(self, "index", int(number))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


class Backend:
    """NumPy: arrays live on the host and are never moved."""

    name = "numpy"
    on_device = False

    device = Device("cpu")

    def __init__(self) -> None:
        self.module: Any = np

    def asarray(self, data: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
        """An array of this backend: `data` itself if it is one, else a copy in its memory."""
        return np.asarray(data, dtype)

    def to_host(self, array: Array, out: Array | None = None) -> Array:
        """The array in the host's memory, in `out` if given; waits until it has arrived."""
        if out is None:
            return array
        np.copyto(out, array)
        return out

    def aligned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """See aligned_empty; a device aligns all arrays."""
        if self.on_device:
            return self.module.empty(shape, dtype)
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        memory = np.empty(nbytes + LINE, np.uint8)
        return np.ndarray(shape, dtype, memory, -self.address(memory) % LINE)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Host memory that the device copies from and to fastest; values are not set."""
        return np.empty(shape, dtype)

    def scatter_add(self, out: Array, index: Any, values: Array) -> None:
        """Add `values` at an index, in which elements may be repeated."""
        np.add.at(out, index, values)

    def sum_runs(self, rows: Array, starts: Array) -> Array:
        """The sums of neighbouring rows (N, C), from each of `starts` (R,) to the next: (R, C).

        `starts` is on the host; it begins with 0 and increases.
        """
        return np.add.reduceat(rows, starts, axis=0)

    def erf(self, x: Array) -> Array:
        """The error function, in double precision; rounded where x is narrower."""
        if x.dtype not in (np.float16, np.float32):
            return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), np.float64)
        if x.size > ERF_BLOCK:  # pieces that stay in the cache
            parts = np.array_split(x.reshape(-1), -(-x.size // ERF_BLOCK))
            return np.concatenate([self.erf(part) for part in parts]).reshape(x.shape)
        a = np.clip(x.astype(np.float64), -3.92, 3.92)  # beyond, it is 1 in float32
        square = a * a
        ratio = np.polyval(ERF_ABOVE, square) / np.polyval(ERF_BELOW, square)
        return np.asarray(a * ratio).astype(x.dtype)

    def block_size(self, elements: int) -> int:
        """The size of blocks for loops that stay in the cache, given the best one on a CPU."""
        return elements

    def synchronize(self) -> None:
        """Wait until all pending work is done."""

    def memory(self, array: Array) -> tuple[Any, int, int]:
        """The array that owns an array's memory, and the addresses of its first byte and the end:
        of all between, where the array has gaps."""
        owner: Any = array
        while isinstance(owner.base, np.ndarray | self.module.ndarray):
            owner = owner.base
        low = high = self.address(array)
        if not array.size:
            return owner, low, high
        for length, stride in zip(array.shape, array.strides, strict=True):
            reach = (length - 1) * stride
            low, high = (low + reach, high) if reach < 0 else (low, high + reach)
        return owner, low, high + array.itemsize

    def address(self, array: Any) -> int:
        """The address of the first element."""
        return int(array.__array_interface__["data"][0])


class CuPy(Backend):
    """CuPy: arrays live on one GPU, and the host waits only where it reads a value."""

    name = "cupy"
    on_device = True

    def __init__(self, device: int = 0) -> None:
        count = find_gpus()
        import cupy
        import cupyx
        from cupyx.scipy import special

        self.module, self._extension, self._special = cupy, cupyx, special
        self.device = Device("cuda", device % count)
        cupy.cuda.Device(device % count).use()  # of the calling thread

    def asarray(self, data: Any, dtype: npt.DTypeLike | None = None) -> Array:
        if isinstance(data, int | float):  # passed with the kernel that writes it
            return self.module.full((), data, dtype or np.asarray(data).dtype)
        return self.module.asarray(data, dtype)

    def to_host(self, array: Array, out: Array | None = None) -> Array:
        return self.module.asnumpy(array, out=out)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        return self._extension.empty_pinned(shape, dtype)

    def scatter_add(self, out: Array, index: Any, values: Array) -> None:
        """The order of the sums at repeated elements is not fixed."""
        self.module.add.at(out, index, values)

    def sum_runs(self, rows: Array, starts: Array) -> Array:
        """`rows` is overwritten.

        CuPy's reduceat takes differences of running sums, which lose small rows, and its add.at
        adds in any order. So this adds pairs of neighbours, then pairs of pairs, and so on.
        """
        lengths = np.diff(starts, append=len(rows))
        within = np.arange(len(rows)) - np.repeat(starts, lengths)  # the index within its run
        left = np.repeat(lengths, lengths) - within
        distance = 1
        while distance < lengths.max():
            into = np.flatnonzero((within % (2 * distance) == 0) & (left > distance))
            places = self.asarray(into)
            rows[places] += rows[places + distance]
            distance *= 2
        return rows[self.asarray(starts)]

    def erf(self, x: Array) -> Array:
        return self._special.erf(x)

    def block_size(self, elements: int) -> int:
        """Each call is a kernel, which should have much to do."""
        return max(elements, LARGE_BLOCK)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def synchronize(self) -> None:
        self.module.cuda.get_current_stream().synchronize()


def find_gpus() -> int:
    """The number of GPUs; raises BackendError if there are none, or no CuPy."""
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            f"CuPy cannot be imported ({error}): pip install 'ringlet[cupy]' installs the one for "
            "CUDA 12"
        ) from error
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"CuPy finds no GPU: {error}") from error
    if not count:
        raise BackendError("CuPy finds no GPU")
    return count


_KINDS: dict[str, type[Backend]] = {"numpy": Backend, "cupy": CuPy}
_HOST = _present = Backend()
_was_chosen = False


def _install(backend: Backend) -> None:
    global _present
    names = vars(xp)
    for name in [name for name in names if not name.startswith("__")]:
        del names[name]
    names.update((k, v) for k, v in vars(backend.module).items() if not k.startswith("__"))
    if backend.module is np:
        names["matmul"] = mkl.chosen()
    _present = backend


_install(_present)


def use(name: str, device: int = 0) -> Backend:
    """Compute with "numpy" or "cupy" from now on; call it before creating the first tensor.

    `device` is the GPU's index, modulo their number: a local rank will do. Raises BackendError if
    CuPy or a GPU is missing, or if another backend was chosen before.
    """
    global _was_chosen
    if name not in _KINDS:
        raise BackendError(f"unknown backend {name!r}; known are {', '.join(_KINDS)}")
    if name != _present.name:
        if _was_chosen:
            raise BackendError(
                f"this process already computes with {_present.name}; {name} needs another process"
            )
        _install(CuPy(device) if name == "cupy" else Backend())
    _was_chosen = True
    return _present


@contextlib.contextmanager
def substituted(backend: Backend) -> Iterator[Backend]:
    """Use another backend inside the block: for tests, which use several in one process."""
    before = _present
    _install(backend)
    try:
        yield backend
    finally:
        _install(before)


def chosen() -> Backend:
    """The backend of this process."""
    return _present


def asarray(data: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
    """An array of the backend; see Backend."""
    return _present.asarray(data, dtype)


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array, its values not set, at the start of a cache line. NumPy's begin 16 bytes later: an
    access of 64 bytes touches two lines, and passes within the cache take a sixth longer."""
    return _present.aligned(shape, dtype)


def stand_in(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Zeros that take no memory and cannot be written, where only shape and dtype are needed."""
    return xp.broadcast_to(xp.zeros((), dtype), shape)


def to_host(array: Any, out: Array | None = None) -> Array:
    """An array as NumPy's: itself if it is one and `out` is not given."""
    here = _HOST if isinstance(array, np.ndarray) else _present
    return here.to_host(array, out)


def check_device(device: Any) -> None:
    """Raise BackendError unless this is where the backend's arrays are; None is."""
    if device is not None and str(device) not in (str(_present.device), _present.device.type):
        raise BackendError(
            f"device {device}: this process computes with {_present.name} on {_present.device}; "
            "nn.use('cupy') before the first tensor chooses a GPU"
        )


def copy_from_host(out: Any, values: Array) -> None:
    """Write an array, the host's or the backend's, into an array of the backend."""
    if isinstance(out, np.ndarray):
        np.copyto(out, values)
    else:
        out[...] = _present.asarray(values, out.dtype)


def block_size(elements: int) -> int:
    """How many elements a loop that stays in the cache processes at once; many on a device."""
    return _present.block_size(elements)


def refuse_mixture(what: str, arrays: Iterable[Any]) -> None:
    """Raise MixedArrays unless all arrays are the backend's."""
    met = [array for array in arrays if hasattr(array, "ndim") and not np.isscalar(array)]
    if not all(isinstance(array, xp.ndarray) for array in met):
        raise MixedArrays(
            f"{what} computes with arrays of {_present.name} and was given "
            f"{' and '.join(map(_described, met))}: nn.asarray(array) and nn.Tensor(array) move "
            "one from the host to the device, nn.to_host(array) back; create models after nn.use"
        )


def _described(array: Any) -> str:
    home = "host" if isinstance(array, np.ndarray) else "device"
    return f"one of the {home} ({type(array).__module__}, {array.dtype} {array.shape})"
