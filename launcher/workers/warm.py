"""A warm worker: joins the world once, then runs functions for a WorkerPool, one by one."""

import importlib.util
import sys
import traceback
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from ringlet.launcher.supervisor import process
from ringlet.launcher.workers.called import CalledRank
from ringlet.launcher.workers.worker import Guard, is_echo, start_guard

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
    rank = CalledRank(guard)
    try:
        world = rank.join()
        while "end" not in (task := rank.take()):
            sys.path[:] = task["search"]  # the function's file imports what its caller can
            paths = {name: Path(path) for name, path in task["paths"].items()}
            function = attrgetter(task["name"])(load(task["path"]))
            result = function(world, **task["arguments"], **paths)
            rank.answer_result(task["name"], result, task["tuples"])
    except BaseException as error:
        rank.answer({"failed": traceback.format_exc(), "echo": is_echo(error)})
        sys.exit(1)


if __name__ == "__main__":
    started = start_guard()
    if started is None:
        sys.exit("only a WorkerPool can start a warm worker")
    serve(started)
