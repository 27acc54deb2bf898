"""Private folders for socket files, which go away with the process that made them.

A process locks (flock) each folder that it makes or joins until it ends, however it ends. Whoever
makes a folder first removes this user's unlocked ones, so what a killed process left behind is gone
when the next one starts. Unlike a pid in the name, a lock never passes to another process, and
means the same in every container that shares the folder.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from ringlet.comm.errors import AuthenticationError, CommError

PREFIX = "ringlet."
"""Short, because socket paths must be, and used for nothing else."""

SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket."""

LONGEST = f"/{PREFIX}0123456789ab/rendezvous"
"""No path of a socket in a folder of this module is longer."""

_held: dict[Path, int] = {}


def socket_place() -> Path:
    """Where folders for sockets are made: where temporary files go, unless its name is too long for
    a socket's path, or not UTF-8 as ZeroMQ wants it."""
    place = tempfile.gettempdir()
    for each in (place, "/tmp", "/var/tmp"):
        with contextlib.suppress(UnicodeEncodeError):
            fits = len(f"{each}{LONGEST}".encode()) <= SOCKET_PATH_BYTES
            if fits and os.access(each, os.W_OK | os.X_OK):
                return Path(each)
    return Path(place)  # whoever binds there says what is wrong


def shared_folder(*names: str) -> Path:
    """The folder, made by whoever joins it first, of the processes that know the same names."""
    data = "\0".join((str(os.getuid()), *names)).encode(errors="surrogateescape")
    return socket_place() / (PREFIX + hashlib.blake2b(data, digest_size=6).hexdigest())


def make_folder() -> Path:
    """Make a folder (mode 0700) for sockets; this process locks it."""
    place = socket_place()
    _sweep(place)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        with contextlib.suppress(FileNotFoundError):
            descriptor = _open(folder)
            with contextlib.suppress(OSError):  # no locks there, so no sweeping either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_open_at(folder, descriptor):  # nobody swept it before the lock
                _held[folder] = descriptor
                return folder


def join_folder(folder: Path) -> None:
    """Make the folder unless it is there; this process shares its lock. Raises AuthenticationError
    if others can enter it."""
    _sweep(folder.parent)
    while folder not in _held:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # the last process has just left it
            check_private(folder)
            descriptor = _open(folder)
            with contextlib.suppress(OSError):  # no locks there
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_open_at(folder, descriptor):
                _held[folder] = descriptor


def _is_open_at(folder: Path, descriptor: int) -> bool:
    """Whether the descriptor's folder still has this name; closes it otherwise."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(folder.stat(), os.fstat(descriptor)):
            return True
    os.close(descriptor)
    return False


def remove_folder(folder: Path) -> None:
    """Remove the folder, with whatever a killed process left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    _release(folder)


def leave_folder(folder: Path) -> None:
    """Remove the folder that this process has made or joined, if it is empty and nobody else has
    joined it; another's stays."""
    if folder not in _held:
        return
    try:
        fcntl.flock(_held[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _release(folder)
        return
    except OSError:  # no locks there
        pass
    with contextlib.suppress(OSError):
        folder.rmdir()
    _release(folder)


def abandon_folder(folder: Path) -> None:
    """At the end of a process that has not left it: remove the folder with its sockets, unless
    somebody else has joined it."""
    if folder in _held:
        with contextlib.suppress(OSError):  # joined by others, or no locks there
            fcntl.flock(_held[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the folder and its sockets, unless other files are in it."""
    for path in folder.iterdir():
        if path.is_socket():
            path.unlink()
    folder.rmdir()


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
                    _remove(folder)
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


def socket_path(folder: Path, rank: int) -> Path:
    """Where a rank listens in the folder; raises CommError if a socket can have no such path."""
    path = folder / f"{rank}.inbox"
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise CommError(f"{path} is too long for a socket's path: set TMPDIR to a shorter folder")
    return path
