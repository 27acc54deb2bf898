"""Small Python objects as bytes: msgpack with NumPy arrays, and never pickle."""

from typing import Any

import msgpack
import numpy as np

from ringlet.comm.arrays import Array, dtype_named, name_of

_ARRAY = 1


def pack(value: Any) -> Array:
    """The value's bytes as a uint8 array.

    None, bool, int (64 bits), float, str, bytes, list, tuple, dict and NumPy arrays and scalars.
    Raises TypeError for anything else.
    """
    return pack_checked(value)[0]


def pack_checked(value: Any) -> tuple[Array, Any]:
    """The same, and what `unpack` makes of them: some values can be packed, but not unpacked."""
    try:
        data = np.frombuffer(msgpack.packb(value, default=_pack_other), np.uint8).copy()
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
    """The packed value; tuples come back as lists. Raises ValueError for other bytes."""
    try:
        return msgpack.unpackb(data.data, ext_hook=_unpack_other, strict_map_key=False)
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


def _unpack_other(code: int, data: bytes) -> Any:
    if code != _ARRAY:
        raise ValueError(f"unknown msgpack extension {code}")
    dtype, shape, content = msgpack.unpackb(data, use_list=False)
    return np.frombuffer(content, dtype_named(dtype)).reshape(shape).copy()
