"""--trace: where the ranks of a run record, and the file that is made of it at the end."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ringlet
from ringlet.launcher.commands.pasted import command
from ringlet.launcher.errors import UserError, make_folder, user_errors
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.traces import records_of

LOCK = "lock"


@contextmanager
def tracing(path: Path | None, steps: int | None, agent: Agent) -> Iterator[None]:
    """Have a run's ranks record, and make one trace of it on host 0, however the run ends. Without
    a path, do nothing. Raises UserError if nothing could be written there."""
    if path is None:
        yield
        return
    folder, lock = records_of(path), None
    make_folder(folder, "--trace")
    with user_errors(os_error=f"--trace {path}"):
        if not agent.node:  # the folder may be the same one on all hosts
            lock = _lock(path, folder)
            _clear(folder)
    try:
        yield
    except UserError:  # nothing has begun
        _remove(folder)
        raise
    finally:
        if folder.exists():
            _conclude(path, steps, folder, agent)
        if lock is not None:
            os.close(lock)


def _lock(path: Path, folder: Path) -> int:
    """Hold the folder until the descriptor is closed. Raises UserError if another run does."""
    # Imported here: few runs are traced, and this brings NumPy.
    from ringlet.nn.files import lock

    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        lock(descriptor)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"--trace {path} belongs to a run that goes on; name another") from error
    return descriptor


def _conclude(path: Path, steps: int | None, folder: Path, agent: Agent) -> None:
    from ringlet.runtime.tracing.chrome import STEPS, write_trace
    from ringlet.runtime.tracing.records import TraceError

    screen = Screen()
    if agent.node:  # what this host's ranks have recorded has gone to host 0, if all went well
        with suppress(OSError):
            folder.rmdir()
        if any((folder / f"rank-{rank}.ring").exists() for rank in agent.ranks):
            screen.say(f"{command('trace', path)} shows what this host's ranks have recorded")
        return
    about = {"ringlet": ringlet.__version__, "command": ["ringlet", *sys.argv[1:]]}
    try:
        head = write_trace(folder, path, STEPS if steps is None else steps, about)
    except TraceError as error:
        if any(folder.glob("rank-*.facts")):
            screen.say(f"--trace {path}: {error}; what was recorded stays in {folder}")
            return
        screen.say("there is no trace: no rank has called comm.init()")
    except OSError as error:
        screen.say(f"--trace {path}: {error.strerror}; what was recorded stays in {folder}")
        return
    else:
        if head["steps"]:
            steps_text = "steps {} to {}".format(*head["steps"])
            text = f"the trace of {steps_text} is in {path}; {command('trace', path)} measures it"
        else:
            text = f"the trace is in {path}; it has no steps to measure (docs/how-to/tracing.md)"
        screen.say(text)
    _remove(folder)


def _clear(folder: Path) -> None:
    """Remove what ranks have recorded."""
    for pattern in ("rank-*", "received-*", "merged.json"):
        for path in folder.glob(pattern):
            path.unlink()


def _remove(folder: Path) -> None:
    """Remove the folder, unless something else is in it."""
    _clear(folder)
    (folder / LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
