"""Small Python objects as bytes: msgpack with NumPy arrays, and never pickle."""

from typing import Any

import msgpack
import numpy as np

from ringlet.comm.arrays import Array, dtype_named, name_of

TEXT = {"unicode_errors": "surrogatepass"}
"""Names of files need not be UTF-8: Python keeps their other bytes as surrogates."""

_ARRAY, _TUPLE = 1, 2
_KINDS: tuple[Any, ...] = (int, float, str, bytes, list, dict)


def pack(value: Any, tuples: bool = False) -> Array:
    """The value's bytes as a uint8 array. With `tuples`, tuples come back as such.

    None, bool, int (64 bits), float, str, bytes, list, tuple, dict and NumPy arrays and scalars.
    Raises TypeError for anything else.
    """
    return pack_checked(value, tuples)[0]


def pack_checked(value: Any, tuples: bool = False) -> tuple[Array, Any]:
    """The same, and what `unpack` makes of them: some values can be packed, but not unpacked."""
    try:
        packed = (
            _pack_exactly(value) if tuples else msgpack.packb(value, default=_pack_other, **TEXT)
        )
        data = np.frombuffer(packed, np.uint8).copy()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"cannot send this object as msgpack: {error}") from error
    try:
        return data, unpack(data)
    except ValueError as error:
        raise TypeError(
            f"cannot send this object: its msgpack could not be read ({error}). Keys of dicts can "
            "be text, bytes, Python's numbers and None"
        ) from error


def unpack(data: Array) -> Any:
    """The packed value; tuples come back as lists, unless they were packed as tuples. Raises
    ValueError for other bytes."""
    try:
        return _unpack(data.data)
    except (TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"not a packed object: {error}") from error


def _pack_other(value: Any) -> Any:
    if type(value) in (np.ndarray, np.memmap) or isinstance(value, np.generic):
        array = np.asarray(value)
        if not name_of(array.dtype):
            raise TypeError(f"an array of dtype {array.dtype} cannot be sent")
        content = (name_of(array.dtype), array.shape, array.tobytes())
        return msgpack.ExtType(_ARRAY, msgpack.packb(content))
    raise TypeError(f"{type(value).__name__} is not supported")


def _pack_exactly(value: Any) -> Any:
    return msgpack.packb(value, default=_pack_tuple, strict_types=True, **TEXT)


def _pack_tuple(value: Any) -> Any:
    """What msgpack leaves to us if it is strict: tuples, and subclasses of what it knows."""
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, _pack_exactly(list(value)))
    for kind in _KINDS:
        if isinstance(value, kind):
            return str.__str__(value) if kind is str else kind(value)
    return _pack_other(value)


def _unpack(data: bytes | memoryview) -> Any:
    return msgpack.unpackb(data, ext_hook=_unpack_other, strict_map_key=False, **TEXT)


def _unpack_other(code: int, data: bytes) -> Any:
    if code == _TUPLE:
        return tuple(_unpack(data))
    if code != _ARRAY:
        raise ValueError(f"unknown msgpack extension {code}")
    dtype, shape, content = msgpack.unpackb(data, use_list=False)
    return np.frombuffer(content, dtype_named(dtype)).reshape(shape).copy()
