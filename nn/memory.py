"""Keep freed memory in the process, and in huge pages.

A training step allocates and frees the same large arrays again and again. By default, glibc
returns them to the kernel each time, and every page is faulted in and zeroed again: a fifth of a
step. These settings (mallopt(3)) make it keep them.

Arrays below 4 MiB (above, NumPy requests huge pages itself) live in pages of 4 KiB, whose address
translation takes 2 to 8 % of a step. So the heap is grown at once, without touching it, and marked
for transparent huge pages (madvise(2), MADV_HUGEPAGE). Beyond that it has ordinary pages.
"""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3

LARGEST = 32 << 20
"""Bytes from which an allocation is a mapping of its own; glibc accepts no more."""

SETTINGS = {
    M_MMAP_THRESHOLD: LARGEST,
    M_TRIM_THRESHOLD: (1 << 31) - 1,
    M_TOP_PAD: 64 << 20,
}

RESERVED = 1 << 30
"""Bytes of address space for the heap in huge pages; only used pages take memory."""

HUGE_PAGE = 2 << 20
MADV_HUGEPAGE = 14


def keep_freed_memory() -> None:
    """Apply the settings if the C library has them and the user set none (MALLOC_*)."""
    if _set_outside():
        return
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        for parameter, value in SETTINGS.items():
            libc.mallopt(parameter, value)
        _reserve_huge_pages(libc)


def return_freed_memory() -> None:
    """Return free memory to the kernel, after freeing much that no step will use again."""
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.malloc_trim(ctypes.c_size_t(0))
        if not _set_outside():
            _reserve_huge_pages(libc)  # malloc_trim returned the unused part


def _set_outside() -> bool:
    return any(name.startswith("MALLOC_") for name in os.environ)


def _reserve_huge_pages(libc: ctypes.CDLL) -> None:
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_ssize_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(M_TOP_PAD, RESERVED)
    start = libc.malloc(LARGEST // 2)  # more than the heap has left, so it grows
    libc.mallopt(M_TOP_PAD, SETTINGS[M_TOP_PAD])
    end = libc.sbrk(0)
    # With limited address space the array may be elsewhere, and the heap has not grown.
    if start is not None and start < end <= start + 2 * RESERVED:
        first = -(-start // HUGE_PAGE) * HUGE_PAGE
        libc.madvise(first, end // HUGE_PAGE * HUGE_PAGE - first, MADV_HUGEPAGE)
    libc.free(start)
