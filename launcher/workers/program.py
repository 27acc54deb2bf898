"""Running a script or module in a worker as plain `python` would.

It gets a `__main__` module of its own, which stays until the interpreter has ended, so that threads
and atexit handlers can pickle what is in it (runpy puts the old one back at the last line).
"""

import builtins
import importlib.util
import os
import pkgutil
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


def run_program(arguments: list[str]) -> None:
    """Run `script.py arguments...`, `-m module arguments...`, or a folder or archive that has a
    __main__.py, as `python` does with the same words."""
    main: Any = ModuleType("__main__")
    main.__builtins__ = builtins
    path = os.path.abspath(arguments[0])  # noqa: PTH100 - links stay, as in `python`
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        _search_first(str(Path.cwd()))
        code = _module(main, _find(arguments[1]))
        sys.argv[0] = main.__file__
    elif (finder := pkgutil.get_importer(path)) is not None:  # a folder, or an archive
        sys.argv = arguments
        _search_first(path)
        code = _module(main, finder.find_spec("__main__", None))
    else:
        sys.argv = arguments
        _search_first(str(Path(path).resolve().parent))
        main.__file__, main.__cached__ = path, None
        code = _script(main)
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def _search_first(folder: str) -> None:
    """Put the folder in the place of this program's own."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _script(main: Any) -> CodeType:
    kind: Any = SourcelessFileLoader if main.__file__.endswith(".pyc") else SourceFileLoader
    main.__loader__ = kind("__main__", main.__file__)
    if kind is SourcelessFileLoader:
        return main.__loader__.get_code("__main__")
    # Not get_code, which would keep bytecode beside the script.
    return main.__loader__.source_to_code(main.__loader__.get_data(main.__file__), main.__file__)


def _find(name: str) -> ModuleSpec | None:
    """The module, or the __main__ of the package."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, TypeError, ValueError) as error:
        if isinstance(error, ImportError) and not f"{name}.".startswith(f"{error.name}."):
            raise  # what the package itself imports is missing
        sys.exit(f"{sys.executable}: cannot find the module {name!r}: {error}")
    if spec is None:
        sys.exit(f"{sys.executable}: there is no module {name!r}, or no __main__ in it")
    return spec


def _module(main: Any, spec: ModuleSpec | None) -> CodeType:
    loader: Any = None if spec is None else spec.loader
    if spec is None or not hasattr(loader, "get_code"):
        sys.exit(f"{sys.executable}: there is no __main__ module in {sys.argv[0]!r}")
    main.__spec__, main.__loader__, main.__package__ = spec, loader, spec.parent
    main.__file__, main.__cached__ = spec.origin, spec.cached
    return loader.get_code(spec.name)
