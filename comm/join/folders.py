"""Private folders for socket files, which go away with the process that made them.

A process locks (flock) each folder that it makes until it ends, however it ends. Whoever makes a
folder first removes this user's unlocked ones, so what a killed process left behind is gone when
the next one starts. Unlike a pid in the name, a lock never passes to another process, and means
the same in every container that shares the folder.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

from ringlet.comm.errors import AuthenticationError

PREFIX = "ringlet."
"""Short, because socket paths must be, and used for nothing else."""

_held: dict[Path, int] = {}


def make_folder() -> Path:
    """Make a folder (mode 0700) where temporary files go; this process locks it."""
    _sweep(Path(tempfile.gettempdir()))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError):
            descriptor = _open(folder)
            with contextlib.suppress(OSError):  # no locks there, so no sweeping either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():  # nobody swept it before the lock
                _held[folder] = descriptor
                return folder
            os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove the folder, with whatever a killed process left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    _release(folder)


def leave_folder(folder: Path) -> None:
    """Remove the folder if it is empty, that is, if this process is the last to leave it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    _release(folder)


def _release(folder: Path) -> None:
    descriptor = _held.pop(folder, None)
    if descriptor is not None:
        os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove the folders of this user's processes that have ended."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # locked, not a folder, or already gone
            descriptor = _open(folder)
            try:
                status = os.fstat(descriptor)
                if _is_private(status):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for path in folder.iterdir():
                        if path.is_socket():
                            path.unlink()
                    folder.rmdir()  # unless other files are in it
            finally:
                os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def check_private(folder: Path) -> None:
    """Raise AuthenticationError unless this user alone can enter the folder."""
    status = folder.lstat()
    if not (stat.S_ISDIR(status.st_mode) and _is_private(status)):
        raise AuthenticationError(
            f"{folder} is not a folder that only this user can enter (mode 0700): remove it, or "
            "set TMPDIR to a folder of your own"
        )


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o077
