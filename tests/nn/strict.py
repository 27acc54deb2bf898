"""The second device of array-api-strict under NumPy's names, as a backend.

The library's arrays compute on the device they are on, and refuse any that is on another; NumPy
refuses them too. They have no methods, no `out`, and of indices with arrays only those that are
read: this thin adapter has them, made of the library's own functions on that device. It says
whether host and device mix, and nothing about what CuPy can or cannot do: for that there is
tests/fake.
"""

import types

import array_api_strict as strict
import numpy as np

from ringlet.nn.backend import Backend

DEVICE = strict.Device("device1")
DTYPES = {
    np.dtype(each): getattr(strict, each)
    for each in ("float32", "float64", "int32", "int64", "bool")
}


def bare(value):
    """The library's array; NumPy's scalars as Python's numbers."""
    if isinstance(value, Array):
        return value.strict
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        raise TypeError("an array of the host")
    return value


class Array:
    """An array of the second device."""

    __array_priority__ = 100
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, array):
        assert array.device == DEVICE
        self.strict = array

    shape = property(lambda self: self.strict.shape)
    ndim = property(lambda self: self.strict.ndim)
    size = property(lambda self: self.strict.size)
    T = property(lambda self: self.transpose())

    @property
    def dtype(self):
        """NumPy's."""
        return next(mine for mine, other in DTYPES.items() if other == self.strict.dtype)

    def __len__(self):
        return self.shape[0]

    # -- places -------------------------------------------------------------------------------

    def _parts(self, index):
        """The parts of an index, whose slices end where the axes do, and whether arrays are
        among them; without arrays there is one part for each axis, and those of length 1."""
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, Array) for part in parts):
            return tuple(map(bare, parts)), True
        rest = (slice(None),) * (self.ndim - sum(p is not None and p is not ... for p in parts))
        at = next((number for number, part in enumerate(parts) if part is ...), len(parts))
        axes, whole = iter(self.shape), []
        for part in (*parts[:at], *rest, *parts[at + 1 :]):
            length = None if part is None else next(axes)
            if isinstance(part, slice):
                start, stop, step = part.indices(length)
                part = slice(start, stop if stop >= 0 else None, step)
            whole.append(part)
        return tuple(whole), False

    def __getitem__(self, index):
        parts, arrays = self._parts(index)
        if not arrays:
            return Array(self.strict[parts])
        if len(parts) == 1 and parts[0].dtype != strict.bool:  # rows of a table
            rows = strict.take(self.strict, strict.reshape(parts[0], (-1,)), axis=0)
            return Array(strict.reshape(rows, (*parts[0].shape, *self.shape[1:])))
        return Array(self.strict[parts])

    def __setitem__(self, index, value):
        parts, arrays = self._parts(index)
        value = bare(value)
        if not arrays:
            self.strict[parts] = value
            return
        if parts[0].dtype == strict.bool:  # the library looks for such a mask on the host
            copyto(self, value, where=parts[0])
            return
        for number in range(parts[0].shape[0]):  # the standard only reads such places
            place = tuple(int(part[number]) for part in parts)
            self.strict[(*place, ...)] = value[number, ...] if hasattr(value, "shape") else value

    # -- methods ------------------------------------------------------------------------------

    def reshape(self, *shape, order="C"):
        """See NumPy."""
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return Array(strict.reshape(self.strict, tuple(shape)))

    def transpose(self, *axes):
        """See NumPy."""
        axes = axes[0] if len(axes) == 1 else axes
        return Array(strict.permute_dims(self.strict, tuple(axes or range(self.ndim)[::-1])))

    def astype(self, dtype, copy=True):
        """See NumPy."""
        return Array(strict.astype(self.strict, DTYPES[np.dtype(dtype)], copy=copy))

    def sum(self, axis=None, keepdims=False, dtype=None):
        """See NumPy."""
        return Array(strict.sum(self.strict, axis=axis, keepdims=keepdims))

    def mean(self, axis=None, keepdims=False):
        """See NumPy."""
        return Array(strict.mean(self.strict, axis=axis, keepdims=keepdims))

    def max(self, axis=None, keepdims=False):
        """See NumPy."""
        return Array(strict.max(self.strict, axis=axis, keepdims=keepdims))

    def copy(self):
        """See NumPy."""
        return Array(strict.asarray(self.strict, copy=True))

    def fill(self, value):
        """See NumPy."""
        self.strict[...] = value

    def item(self):
        """See NumPy."""
        return Device().to_host(self).item()

    __float__ = item


NAMES = """exp expm1 cosh log log1p log2 log10 sqrt sin cos tanh abs sign negative square floor ceil
round add subtract multiply divide maximum minimum remainder floor_divide copysign matmul isfinite
logaddexp equal not_equal greater less greater_equal less_equal logical_and logical_or logical_not
logical_xor bitwise_and bitwise_or bitwise_xor isnan isinf"""
"""Functions that have the same name in the standard."""


def alike(args):
    """Bare operands, of which those of bool are numbers where others are."""
    kinds = {arg.dtype for arg in args if isinstance(arg, Array)}
    number = next((kind for kind in kinds if kind.kind == "f"), None)
    if len(kinds) > 1 and number is not None and len(args) == 2:
        args = [arg.astype(number) if isinstance(arg, Array) else arg for arg in args]
    return map(bare, args)


def where(condition, a, b):
    """See NumPy."""
    if isinstance(a, np.generic):
        a = Device().asarray(a)
    return Array(strict.where(bare(condition), bare(a), bare(b)))


def function(name):
    """A function of the library, with `out`; the numbers of Python take the arrays' dtype."""
    own = getattr(strict, name)

    def call(*args, out=None):
        result = Array(own(*alike(args)))
        if out is None:
            return result
        out[...] = result
        return out

    return call


def copyto(out, value, where=None):
    """See NumPy."""
    value = bare(value)
    if where is not None:
        mask = strict.broadcast_to(bare(where), out.shape)
        value = Array(strict.where(mask, value, out.strict))
    out[...] = value


def made(name):
    """A function that makes arrays."""

    def make(*args, dtype=None):
        if name in ("empty", "zeros", "ones") and len(args) == 2:
            args, dtype = args[:1], args[1]
        if name == "full" and len(args) == 3:
            args, dtype = args[:2], args[2]
        kind = None if dtype is None else DTYPES[np.dtype(dtype)]
        return Array(getattr(strict, name)(*map(bare, args), dtype=kind, device=DEVICE))

    return make


def namespace():
    """What takes the place of NumPy's functions."""
    names = {name: function(name) for name in NAMES.split()}
    names.update({name: made(name) for name in ("empty", "zeros", "ones", "full", "arange")})
    names.update(
        ndarray=Array,
        power=function("pow"),
        invert=function("bitwise_invert"),
        empty_like=lambda x: Array(strict.empty_like(x.strict)),
        zeros_like=lambda x: Array(strict.zeros_like(x.strict)),
        asarray=lambda x, dtype=None: Device().asarray(x, dtype),
        copyto=copyto,
        where=where,
        max=lambda x, axis=None, keepdims=False: x.max(axis, keepdims),
        moveaxis=lambda x, a, b: Array(strict.moveaxis(x.strict, a, b)),
        dot=lambda a, b: Array(strict.sum(strict.multiply(a.strict, b.strict))),
        stack=lambda arrays, axis=0: Array(strict.stack([*map(bare, arrays)], axis=axis)),
        concatenate=lambda arrays, axis=0: Array(strict.concat([*map(bare, arrays)], axis=axis)),
        broadcast_to=lambda x, shape: Array(strict.broadcast_to(x.strict, shape)),
        expand_dims=lambda x, axis: Array(strict.expand_dims(x.strict, axis=axis)),
        swapaxes=lambda x, a, b: Array(_swapped(x.strict, a, b)),
    )
    return types.SimpleNamespace(**names)


def _swapped(x, a, b):
    axes = list(range(x.ndim))
    axes[a], axes[b] = axes[b], axes[a]
    return strict.permute_dims(x, tuple(axes))


def _operators():
    names = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide"}
    names.update({"pow": "power", "matmul": "matmul"})
    for short, name in names.items():
        call = MODULE.__dict__[name]
        setattr(Array, f"__{short}__", lambda a, b, call=call: call(a, b))
        setattr(Array, f"__r{short}__", lambda a, b, call=call: call(b, a))
        setattr(Array, f"__i{short}__", lambda a, b, call=call: call(a, b, out=a))
    comparisons = {"eq": "equal", "ne": "not_equal", "gt": "greater", "ge": "greater_equal"}
    comparisons.update({"lt": "less", "le": "less_equal", "and": "logical_and", "or": "logical_or"})
    for short, name in comparisons.items():
        setattr(Array, f"__{short}__", lambda a, b, call=MODULE.__dict__[name]: call(a, b))
    Array.__neg__ = lambda a: MODULE.negative(a)
    Array.__invert__ = lambda a: MODULE.logical_not(a)


MODULE = namespace()
_operators()


class Device(Backend):
    """The second device as a backend."""

    name = "array-api-strict"
    on_device = True

    def __init__(self):
        self.module = MODULE

    def asarray(self, data, dtype=None):
        """See Backend."""
        if isinstance(data, Array):
            return data if dtype is None or data.dtype == dtype else data.astype(dtype)
        host = np.asarray(data, dtype)
        return Array(strict.asarray(host, dtype=DTYPES[host.dtype], device=DEVICE))

    def to_host(self, array, out=None):
        """See Backend."""
        host = np.array(array.strict.to_device(strict.Device("CPU_DEVICE")))
        if out is None:
            return host
        np.copyto(out, host)
        return out

    def memory(self, array):
        """See Backend: of the NumPy array that the library keeps."""
        return Backend().memory(array.strict._array)

    def erf(self, x):
        """See Backend: the standard has none."""
        return self.asarray(super().erf(self.to_host(x)))

    def sum_runs(self, rows, starts):
        """See Backend."""
        bounds = zip(starts, [*starts[1:], len(rows)], strict=True)
        return MODULE.stack([rows[int(a) : int(b)].sum(axis=0) for a, b in bounds])
