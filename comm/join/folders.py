"""Private folders for socket files, which go with the process that made them.

A process holds a lock (flock) on a folder that it has made for as long as it lives, however it
ends. Whoever makes one first removes this user's that nobody holds any more: what a killed process
leaves is gone when the next one starts. Unlike a pid in the name, a lock is never taken over by
another process, and means the same in every container that shares the place.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

PREFIX = "ringlet."
"""Short, as paths of sockets have to be, and of no other thing that is made here."""

_held: dict[Path, int] = {}


def make_folder() -> Path:
    """A new folder (mode 0700) where temporary files go; this process holds it."""
    _sweep(Path(tempfile.gettempdir()))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError):
            descriptor = _open(folder)
            with contextlib.suppress(OSError):  # no locks there: nobody sweeps there, either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():  # no sweep came before the lock
                _held[folder] = descriptor
                return folder
            os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove the folder, with whatever a killed process left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    _release(folder)


def leave_folder(folder: Path) -> None:
    """Remove the folder if nothing is in it: this was the last process to leave it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    _release(folder)


def _release(folder: Path) -> None:
    descriptor = _held.pop(folder, None)
    if descriptor is not None:
        os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove the folders of processes of this user that are no more."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # held, no folder, or gone in the meantime
            descriptor = _open(folder)
            try:
                status = os.fstat(descriptor)
                if status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o077:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for path in folder.iterdir():
                        if path.is_socket():
                            path.unlink()
                    folder.rmdir()  # unless it holds what nobody here has made
            finally:
                os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
