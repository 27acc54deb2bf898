"""Keep freed memory in the process.

A training step allocates and frees the same large arrays again and again. As it comes, glibc
returns them to the kernel each time, and every page is faulted in, zeroed, anew: a fifth of a
step. These settings (mallopt(3)) let it keep them.
"""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3

SETTINGS = {
    M_MMAP_THRESHOLD: 32 << 20,  # the largest that glibc accepts
    M_TRIM_THRESHOLD: (1 << 31) - 1,
    M_TOP_PAD: 64 << 20,
}


def keep_freed_memory() -> None:
    """Apply the settings where the C library has them and the user has set none (MALLOC_*)."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in SETTINGS.items():
            mallopt(parameter, value)
