"""How commands end: exit codes, and errors that are the user's to mend."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What `ringlet` returns. A script's own exit code is passed on as it is."""

    OK = 0
    FAILED = 1  # a worker raised an exception
    USER_ERROR = 2  # wrong arguments, files or folders; nothing was started
    STOPPED = 75  # training was stopped by a signal and saved; it can be resumed
    SIGNAL = 128  # plus the number of the signal that ended the first worker, or the launcher


class UserError(Exception):
    """Something that the person at the keyboard can mend; shown as one line, exit code 2."""
