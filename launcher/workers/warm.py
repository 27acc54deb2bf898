"""A warm worker: joins the world once, then runs functions for a WorkerPool, one by one."""

import faulthandler
import importlib.util
import signal
import sys
import traceback
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from ringlet import comm
from ringlet.launcher.supervisor import process
from ringlet.launcher.workers.worker import Guard, is_echo, send_result, start_guard

_modules: dict[str, tuple[float, ModuleType]] = {}


def load(path: str) -> ModuleType:
    """The module in the file, imported again only when the file has changed."""
    changed = Path(path).stat().st_mtime
    if path not in _modules or _modules[path][0] != changed:
        spec = importlib.util.spec_from_file_location(f"_warm_{Path(path).stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        process.importing = path
        try:
            spec.loader.exec_module(module)
        finally:
            process.importing = ""
        _modules[path] = (changed, module)
    return _modules[path][1]


def serve(guard: Guard) -> None:
    """Run tasks until the pool asks for the end; end after the first failure."""
    comm.show_last_operations_on_signal()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
    call = 0
    try:
        world = comm.init()
        guard.control.send({"call": call, "result": "ready"})
        while "end" not in (task := guard.inbox.get()):
            call = task["call"]
            comm.inject(task["faults"])
            sys.path[:] = task["search"]  # the function's file imports what its caller can
            paths = {name: Path(path) for name, path in task["paths"].items()}
            function = attrgetter(task["name"])(load(task["path"]))
            result = function(world, **task["arguments"], **paths)
            send_result(guard.control, call, task["name"], result, task["tuples"])
    except BaseException as error:
        text = traceback.format_exc()
        guard.control.send({"call": call, "failed": text, "echo": is_echo(error)})
        sys.exit(1)


if __name__ == "__main__":
    started = start_guard()
    if started is None:
        sys.exit("only a WorkerPool can start a warm worker")
    serve(started)
