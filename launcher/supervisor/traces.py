"""Where a trace goes, and where the ranks record what it is made of."""

import os
from pathlib import Path

from ringlet.launcher.errors import UserError, user_errors


def records_of(trace: Path) -> Path:
    """The folder in which the ranks record what becomes this trace."""
    return trace.parent / f"{trace.name}.records"


def check_trace(path: Path | None) -> None:
    """Raise UserError unless a trace can be written there; another trace may be replaced."""
    if path is None:
        return
    # Imported here: few runs are traced.
    from ringlet.runtime.tracing.chrome import HEAD

    if path.is_dir():
        raise UserError(f"--trace {path} is a folder; name a file")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise UserError(f"--trace {path}: {path.parent} cannot be written to")
    begin = b"?"
    with user_errors(os_error=f"--trace {path}"):
        if path.is_file():
            with path.open("rb") as file:
                begin = file.read(len(HEAD))
        there = path.exists()
    if there and begin not in (b"", HEAD.encode()):
        raise UserError(f"--trace {path} would replace what is no trace; choose another name")
