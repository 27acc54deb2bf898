"""Small Python objects as bytes: msgpack with NumPy arrays, and never pickle."""

from typing import Any

import msgpack
import numpy as np

from ringlet.comm.arrays import Array, sendable

_ARRAY = 1


def pack(value: Any) -> Array:
    """The value's bytes as a uint8 array.

    None, bool, int (64 bits), float, str, bytes, list, tuple, dict and NumPy arrays and scalars.
    Raises TypeError for anything else.
    """
    try:
        return np.frombuffer(msgpack.packb(value, default=_pack_other), np.uint8).copy()
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"cannot send this object as msgpack: {error}") from error


def unpack(data: Array) -> Any:
    """The packed value; tuples come back as lists. Raises ValueError for other bytes."""
    try:
        return msgpack.unpackb(data.data, ext_hook=_unpack_other, strict_map_key=False)
    except (TypeError, SyntaxError, OverflowError, msgpack.UnpackException) as error:
        raise ValueError(f"not a packed object: {error}") from error


def _pack_other(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        if not sendable(array.dtype):
            raise TypeError(f"an array of dtype {array.dtype} cannot be sent")
        shape = np.shape(value)
        content = (array.dtype.str, shape, array.reshape(-1).view(np.uint8).tobytes())
        return msgpack.ExtType(_ARRAY, msgpack.packb(content))
    raise TypeError(f"{type(value).__name__} is not supported")


def _unpack_other(code: int, data: bytes) -> Any:
    if code != _ARRAY:
        raise ValueError(f"unknown msgpack extension {code}")
    dtype, shape, content = msgpack.unpackb(data, use_list=False)
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape).copy()
