"""How commands end: exit codes, and errors that the user can correct."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What `ringlet` returns. A script's own exit code is passed on unchanged."""

    OK = 0
    FAILED = 1  # a worker raised an exception
    USER_ERROR = 2  # wrong arguments, files or folders; nothing was started
    STOPPED = 75  # stopped by a signal after everything was saved: can be resumed (EX_TEMPFAIL)
    PEER_LOST = 76  # a host, or a process that this launcher does not own, was lost
    TIMEOUT = 124  # a wait reached its deadline
    SIGNAL = 128  # plus the number of the signal that ended the first worker, or the launcher


class UserError(Exception):
    """Something that the person at the keyboard can correct; shown as one line, exit code 2."""


@contextmanager
def user_errors(*kinds: type[Exception], os_error: str = "") -> Iterator[None]:
    """Turn errors of these kinds into UserErrors with the same message; an OSError, too, if
    `os_error` says what the message begins with: "cannot write FILE"."""
    try:
        yield
    except kinds as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        raise UserError(str(message)) from error
    except OSError as error:
        if not os_error:
            raise
        raise UserError(f"{os_error}: {error.strerror}") from error


def make_folder(path: Path, option: str) -> None:
    """Make the folder that an option names, and those above it, unless it is there. Raises
    UserError, which names what is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        each = next(each for each in (path, *path.parents) if each.is_symlink() or each.exists())
        what = f"a link to {each.readlink()}, which is not there" if each.is_symlink() else "a file"
        raise UserError(f"{option} {path}: {each} is {what}") from error
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}") from error
