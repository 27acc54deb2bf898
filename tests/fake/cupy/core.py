"""The stand-in for CuPy: what is CuPy's own is refused or done as CuPy does it.

An array wraps one of NumPy's that nobody else may touch. As with CuPy: an array of the host in
an operation is an error, as is np.asarray of one of the device; results are never NumPy's scalars
but arrays of no axes; looking at a value waits (`counts["waits"]`); indices that are out of range
wrap around; results of functions lie in C order whatever the order of what went in; there is no
errstate, and a universal function takes no `where`; copyto takes no array of the host. Functions,
methods and their parameters are those that names.txt lists of the real one. Stricter than CuPy:
NumPy's functions do not find their way here, and arrays of the host are no indices.

`counts` has the copies in either direction, and how often the host waited.
"""

import os
import types
from collections import Counter
from pathlib import Path

import numpy as np

from cupy import nccl

counts = Counter()

_LINES = (Path(__file__).parents[1] / "names.txt").read_text().splitlines()
__version__ = _LINES[0].removeprefix("# cupy ")
NAMES = {name: rest for name, *rest in map(str.split, _LINES[1:])}


def _check_names(name, keywords):
    known = NAMES[name]
    wrong = [each for each in keywords if each not in known]
    if wrong and not any(each.startswith("**") for each in known):
        raise TypeError(f"cupy.{name} has no parameters {wrong}; there are {known}")


def _bare(value):
    """NumPy's array behind one of the device; numbers as they are."""
    if isinstance(value, ndarray):
        return value.memory
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(map(_bare, value))
    return value


def _made(value, view=False):
    """A result of the device."""
    if isinstance(value, np.generic | np.ndarray):
        array = np.asarray(value)
        return ndarray(array if view or not array.ndim else np.ascontiguousarray(array))
    if isinstance(value, list | tuple):
        return type(value)(_made(each, view) for each in value)
    return value


def _look():
    counts["waits"] += 1


class ndarray:
    """An array of the device."""

    __slots__ = ("__weakref__", "memory")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, memory):
        assert type(memory) is np.ndarray
        self.memory = memory

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to "
            "construct a NumPy array explicitly."
        )

    def __array_function__(self, function, kinds, args, keywords):
        raise TypeError(f"np.{function.__name__} was called with an array of the device")

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        """A scalar of NumPy on the left."""
        if any(isinstance(each, np.ndarray) for each in inputs):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        assert method == "__call__" and any(isinstance(each, np.generic) for each in inputs)
        return functions[ufunc.__name__](*inputs, **keywords)

    # -- what it is ---------------------------------------------------------------------------

    shape = property(lambda self: self.memory.shape)
    dtype = property(lambda self: self.memory.dtype)
    ndim = property(lambda self: self.memory.ndim)
    size = property(lambda self: self.memory.size)
    nbytes = property(lambda self: self.memory.nbytes)
    itemsize = property(lambda self: self.memory.itemsize)
    strides = property(lambda self: self.memory.strides)
    flags = property(lambda self: self.memory.flags)
    T = property(lambda self: ndarray(self.memory.T))
    data = property(lambda self: types.SimpleNamespace(ptr=self.memory.ctypes.data))
    base = property(lambda self: self.memory)  # owned by one of NumPy's

    def __len__(self):
        return len(self.memory)

    def __iter__(self):
        return (self[number] for number in range(len(self)))

    # -- looking at values --------------------------------------------------------------------

    def get(self, stream=None, order="C", out=None, blocking=True):
        """A copy on the host."""
        counts["to host"] += 1
        _look()
        if out is None:
            return np.array(self.memory, order="C")
        assert out.shape == self.shape and out.dtype == self.dtype and out.flags.c_contiguous
        np.copyto(out, self.memory)
        return out

    def item(self):
        """The only element."""
        counts["to host"] += 1
        _look()
        return self.memory.item()

    def tolist(self):
        """Numbers in lists."""
        return self.get().tolist()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __bool__(self):
        return bool(self.item())

    def __index__(self):
        return self.item().__index__()

    def __repr__(self):
        return repr(self.memory)

    def __format__(self, spec):
        return format(self.item(), spec)

    # -- indexing -----------------------------------------------------------------------------

    def _place(self, index):
        """The index with numbers beyond the axes wrapped around, as the kernels do."""
        parts = list(index) if isinstance(index, tuple) else [index]
        taken = sum(_axes_of(part) for part in parts)
        axis, place = 0, []
        for part in parts:
            if isinstance(part, np.ndarray | list):
                raise TypeError(f"an index on the host: {type(part)}")
            if part is Ellipsis:
                axis += self.ndim - taken
            elif isinstance(part, ndarray) and part.dtype == np.bool_:
                _look()  # how many there are decides the shape
            elif isinstance(part, ndarray):
                part = part.memory % max(1, self.shape[axis])
            place.append(_bare(part) if isinstance(part, ndarray) else part)
            axis += 0 if part is Ellipsis else _axes_of(part)
        return tuple(place) if isinstance(index, tuple) else place[0]

    def __getitem__(self, index):
        return _made(self.memory[self._place(index)], view=True)

    def __setitem__(self, index, value):
        self.memory[self._place(index)] = _bare(value)

    def set(self, array, stream=None):
        """Copy from the host."""
        assert type(array) is np.ndarray and array.shape == self.shape
        assert array.dtype == self.dtype and self.flags.c_contiguous
        counts["to device"] += 1
        np.copyto(self.memory, array)


def _axes_of(part):
    """How many axes a part of an index uses up."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if getattr(part, "dtype", None) == np.bool_ else 1


VIEWS = ("reshape", "transpose", "squeeze", "swapaxes", "ravel", "view", "diagonal")


def _method(name):
    def method(self, *args, **keywords):
        _check_names(f"ndarray.{name}", keywords)
        args, keywords = _bare(args), {key: _bare(value) for key, value in keywords.items()}
        return _made(getattr(self.memory, name)(*args, **keywords), view=name in VIEWS)

    return method


for _name in [name.removeprefix("ndarray.") for name in NAMES if name.startswith("ndarray.")]:
    if not hasattr(ndarray, _name) and callable(getattr(np.ndarray, _name, None)):
        setattr(ndarray, _name, _method(_name))


class ufunc:
    """A function of each element."""

    def __init__(self, name):
        self.__name__, self._function = name, getattr(np, name)

    def __call__(self, *args, out=None, **keywords):
        _check_names(self.__name__, keywords)
        args = _bare(args)
        if out is not None:
            if not isinstance(out, ndarray):
                raise TypeError("return arrays must be of the device")
            self._function(*args, out=out.memory, **keywords)
            return out
        return _made(self._function(*args, **keywords))

    def at(self, out, index, values):
        """See NumPy; for addition alone."""
        assert self.__name__ == "add"
        self._function.at(_bare(out), out._place(index), _bare(values))


def _function(name):
    views = ("broadcast_to", "expand_dims", "swapaxes", "moveaxis", "flip", "reshape", "split")

    def function(*args, **keywords):
        _check_names(name, keywords)
        args, keywords = _bare(args), {key: _bare(value) for key, value in keywords.items()}
        return _made(getattr(np, name)(*args, **keywords), view=name in views)

    return function


functions = {}
"""The names of the module; apart, since some are those of Python's own functions."""

for _name in NAMES:
    _thing = vars(np).get(_name)  # older ones lack a few
    if isinstance(_thing, np.ufunc):
        functions[_name] = ufunc(_name)
    elif callable(_thing) and not isinstance(_thing, type):
        functions[_name] = _function(_name)
    elif _thing is not None:
        functions[_name] = _thing


def asarray(a, dtype=None, order=None):
    """One of the device: the same, or a copy of the host's."""
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    counts["to device"] += 1
    return ndarray(np.array(a, dtype))


def array(obj, dtype=None, copy=True, order="K"):
    """A copy on the device."""
    return ndarray(np.array(asarray(obj, dtype).memory, order="C"))


def ascontiguousarray(a, dtype=None):
    """In C order."""
    return ndarray(np.ascontiguousarray(_bare(a), dtype))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    """On the host."""
    assert isinstance(a, ndarray)
    return a.get(out=out)


def copyto(dst, src, casting="same_kind", where=None):
    """From an array of the device, or a number."""
    if isinstance(src, np.ndarray):
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    np.copyto(dst.memory, _bare(src), casting, where=True if where is None else _bare(where))


def array_equal(a1, a2, equal_nan=False):
    """An array of no axes, not a bool."""
    return _made(np.asarray(np.array_equal(_bare(a1), _bare(a2), equal_nan)))


def allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    """An array of no axes, not a bool."""
    return _made(np.asarray(np.allclose(_bare(a), _bare(b), rtol, atol, equal_nan)))


class CUDARuntimeError(RuntimeError):
    """What the driver says."""


class _Device:
    def __init__(self, number=0):
        self.number = number
        self.pci_bus_id = nccl.device.pci_bus_id

    def use(self):
        """Of this thread."""
        counts[f"device {self.number}"] += 1


def _device_count():
    count = int(os.environ.get("FAKE_GPUS", "1"))
    if not count:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return count


def _current():
    nccl.current.synchronize = _look
    return nccl.current


cuda = types.SimpleNamespace(
    runtime=types.SimpleNamespace(getDeviceCount=_device_count, CUDARuntimeError=CUDARuntimeError),
    Device=_Device,
    Stream=nccl.Stream,
    nccl=nccl,
    get_current_stream=_current,
)

_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
    "floordiv": "floor_divide", "mod": "remainder", "matmul": "matmul", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor",
}  # fmt: skip
_COMPARISONS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
    "ge": "greater_equal",
}  # fmt: skip


def _operator(name):
    function = functions[name]
    return (
        lambda a, b: function(a, b),
        lambda a, b: function(b, a),
        lambda a, b: function(a, b, out=a),
        lambda a: function(a),
    )


for _short, _name in {**_OPERATORS, **_COMPARISONS}.items():
    _plain, _reflected, _in_place, _ = _operator(_name)
    setattr(ndarray, f"__{_short}__", _plain)
    if _short in _OPERATORS:
        setattr(ndarray, f"__r{_short}__", _reflected)
        setattr(ndarray, f"__i{_short}__", _in_place)
for _short, _name in {"neg": "negative", "abs": "absolute", "invert": "invert"}.items():
    setattr(ndarray, f"__{_short}__", _operator(_name)[3])

functions.update(
    {
        each.__name__: each
        for each in (
            ndarray,
            ufunc,
            asarray,
            array,
            ascontiguousarray,
            asnumpy,
            copyto,
            array_equal,
            allclose,
        )
    },
    cuda=cuda,
    counts=counts,
    __version__=__version__,
)
