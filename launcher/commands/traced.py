"""--trace: where the ranks of a run record, and the file that is made of it at the end."""

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


@contextmanager
def tracing(path: Path | None, steps: int | None, agent: Agent) -> Iterator[None]:
    """Have a run's ranks record, and make one trace of it on host 0, however the run ends. Without
    a path, do nothing. Raises UserError if nothing could be written there."""
    if path is None:
        yield
        return
    folder = records_of(path)
    with user_errors(os_error=f"--trace {path}"):
        if not agent.node:  # the folder may be the same one on all hosts
            _clear(folder)
        make_folder(folder, "--trace")
        (folder / "begun").touch()
    try:
        yield
    except UserError:  # nothing has begun
        _clear(folder)
        raise
    finally:
        if folder.exists():
            (folder / "begun").unlink(missing_ok=True)
            _conclude(path, steps, folder, agent)


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
    except TraceError:
        screen.say("there is no trace: no rank has called comm.init()")
    except OSError as error:
        screen.say(f"--trace {path}: {error.strerror}; what was recorded stays in {folder}")
        return
    else:
        shown = "steps {} to {}".format(*head["steps"]) if head["steps"] else "no steps"
        screen.say(f"the trace of {shown} is in {path}; {command('trace', path)} measures it")
    _clear(folder)


def _clear(folder: Path) -> None:
    """Remove what ranks have recorded, and the folder if nothing else is in it."""
    for pattern in ("begun", "rank-*", "received-*", "merged.json"):
        for path in folder.glob(pattern):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()
