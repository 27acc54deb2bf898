"""Inside a worker: the guard that listens to the launcher, and the start of a program.

python worker.py script.py arguments...
python worker.py -m module arguments...
"""

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringlet import comm
from ringlet.comm import timeline
from ringlet.comm.join import absent
from ringlet.comm.join.folders import PREFIX, remove_folder
from ringlet.launcher.errors import ExitCode
from ringlet.launcher.supervisor.control import Control, Notice
from ringlet.launcher.supervisor.signals import reset_signals
from ringlet.launcher.workers import program


class Guard:
    """Listens to the launcher on a thread of its own.

    News of ranks that have ended go to `comm`, questions about what this rank is doing are
    answered, and other notices wait in `inbox`. When the launcher is gone, however it ended, the
    guard removes the folder that the launcher no longer can, and kills this process and all that it
    started.
    """

    def __init__(self, control: Control) -> None:
        self.control = control
        kind, _, path = os.environ.get("RINGLET_RENDEZVOUS", "").partition("://")
        folder = Path(path).parent
        self._folder = folder if kind == "ipc" and folder.name.startswith(PREFIX) else None
        self.inbox: queue.SimpleQueue[Notice] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="ringlet-guard", daemon=True).start()

    def _listen(self) -> None:
        while (notice := self.control.receive()) is not None:
            if "lost" in notice:
                comm.report_lost(notice["lost"], notice["cause"])
            elif "ended" in notice:
                absent.ended[notice["ended"]] = notice["cause"]
            elif "doing" in notice:
                joined = "ringlet.comm.world" in sys.modules
                doing = joined and comm.last_operation()
                busy, awaited = comm.in_flight() if doing else (False, None)
                state = ("communicates" if busy else "computes") if doing else "starts"
                text = doing or "has not joined a world"
                self.control.send({"doing": text, "state": state, "awaits": awaited})
            else:
                self.inbox.put(notice)
        if self._folder is not None:
            remove_folder(self._folder)
        os.killpg(os.getpgrp(), signal.SIGKILL)


def start_guard() -> Guard | None:
    """Start the guard if a launcher started this process."""
    reset_signals()
    faulthandler.enable()
    control = Control.inherited()
    if control is None:
        return None
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        comm.when_joined(lambda: control.send({"joined": True}))
    return Guard(control)


def is_echo(error: BaseException | None) -> bool:
    """Whether the error, or what led to it, is another rank's failure arriving here."""
    while error is not None:
        if isinstance(error, comm.PeerLost):
            return True
        error = error.__cause__ or error.__context__
    return False


def run_task(work: Callable[[dict[str, Any], Callable[[Notice], None]], None]) -> None:
    """The main of a worker of ringlet's own: `work(task, report)` with the task that its argument
    holds as JSON. Only what rank 0 reports goes to the launcher."""
    guard = start_guard()

    def report(notice: Notice) -> None:
        if guard is not None and os.environ.get("RANK") == "0":
            guard.control.send(notice)

    _supervise(guard, lambda: work(json.loads(sys.argv[1]), report))


def _supervise(guard: Guard | None, run: Callable[[], None]) -> None:
    """Run a program. The launcher is told of an exception, and shows it; this process ends with
    the exit code for it."""
    try:
        run()
    except Exception as error:
        if guard is None:
            raise
        sys.stdout.flush()
        timeline.stop()  # what has been recorded stays as it is
        # Without the notes that some errors carry: the first failure shows them.
        line = traceback.format_exception_only(error)[0].strip()
        text = _own_traceback(error)
        guard.control.send({"failed": text, "line": line, "echo": is_echo(error)})
        if sys.excepthook is not sys.__excepthook__:  # the program's own wants to know, too
            sys.excepthook(type(error), error, error.__traceback__)
        sys.last_value = error  # as where nobody catches it: what runs at the end may look
        sys.exit(ExitCode.TIMEOUT if isinstance(error, comm.CommTimeout) else ExitCode.FAILED)


def _own_traceback(error: Exception) -> str:
    """The traceback without the frames that started the program."""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name not in (__file__, program.__file__) and "importlib._bootstrap" not in name:
            break
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


if __name__ == "__main__":
    _supervise(start_guard(), lambda: program.run_program(sys.argv[1:]))
