"""Sleep until a word of shared memory changes: futex(2), without a C extension."""

import ctypes
import platform
import sys
import time

_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_EVERYBODY = 2**31 - 1
_NUMBER = {"x86_64": 202, "aarch64": 98}.get(platform.machine())


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


if sys.platform == "linux" and _NUMBER is not None:
    _syscall = ctypes.CDLL(None).syscall
    _syscall.argtypes = (
        ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p,
        ctypes.c_void_p, ctypes.c_uint32,
    )  # fmt: skip

    def wait(address: int, value: int, seconds: float) -> None:
        """Sleep while the 32-bit word is `value`, until woken or for `seconds`."""
        limit = _Timespec(int(seconds), int(seconds % 1 * 1e9))
        _syscall(_NUMBER, address, _FUTEX_WAIT, value & 0xFFFFFFFF, ctypes.addressof(limit), 0, 0)

    def wake(address: int) -> None:
        """Wake all who sleep on the word."""
        _syscall(_NUMBER, address, _FUTEX_WAKE, _EVERYBODY, 0, 0, 0)

else:

    def wait(address: int, value: int, seconds: float) -> None:
        """Sleep a moment; the caller checks again."""
        time.sleep(min(seconds, 100e-6))

    def wake(address: int) -> None:
        """Nobody sleeps long."""
