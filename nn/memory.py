"""Keep freed memory in the process, and in huge pages.

A training step allocates and frees the same large arrays again and again. As it comes, glibc
returns them to the kernel each time, and every page is faulted in, zeroed, anew: a fifth of a
step. These settings (mallopt(3)) let it keep them.

Arrays of less than 4 MiB (from there on NumPy asks for huge pages itself) lie in pages of 4 KiB,
and looking up where these are takes 2 to 8 % of a step. So the heap is grown at once, without
touching it, and marked for transparent huge pages (madvise(2), MADV_HUGEPAGE). What grows beyond
has the usual pages.
"""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3

LARGEST = 32 << 20
"""Bytes: from here on an allocation is a mapping of its own; more is not accepted by glibc."""

SETTINGS = {
    M_MMAP_THRESHOLD: LARGEST,
    M_TRIM_THRESHOLD: (1 << 31) - 1,
    M_TOP_PAD: 64 << 20,
}

RESERVED = 1 << 30
"""Bytes of address space for the heap in huge pages; only what is used takes memory."""

HUGE_PAGE = 2 << 20
MADV_HUGEPAGE = 14


def keep_freed_memory() -> None:
    """Apply the settings where the C library has them and the user has set none (MALLOC_*)."""
    if _set_outside():
        return
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        for parameter, value in SETTINGS.items():
            libc.mallopt(parameter, value)
        _reserve_huge_pages(libc)


def return_freed_memory() -> None:
    """Give what is free now back to the kernel: for when much was freed that no step uses."""
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.malloc_trim(ctypes.c_size_t(0))
        if not _set_outside():
            _reserve_huge_pages(libc)  # of which it has given back what was not used yet


def _set_outside() -> bool:
    return any(name.startswith("MALLOC_") for name in os.environ)


def _reserve_huge_pages(libc: ctypes.CDLL) -> None:
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_ssize_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(M_TOP_PAD, RESERVED)
    start = libc.malloc(LARGEST // 2)  # more than is left of the heap: it grows
    libc.mallopt(M_TOP_PAD, SETTINGS[M_TOP_PAD])
    end = libc.sbrk(0)
    # Where the address space is limited, the array may lie elsewhere, and nothing has grown.
    if start is not None and start < end <= start + 2 * RESERVED:
        first = -(-start // HUGE_PAGE) * HUGE_PAGE
        libc.madvise(first, end // HUGE_PAGE * HUGE_PAGE - first, MADV_HUGEPAGE)
    libc.free(start)
