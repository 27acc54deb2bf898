"""An answer is loaded and checked: the part that runs a student's code.

The file as a program checks one answer and reports to answers.py, in whose process none of the
student's code runs.
"""

import faulthandler
import itertools
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ringlet.launcher.supervisor.control import Control
from ringlet.launcher.workers.worker import Guard
from ringlet.nn.files import read_text

Check = Callable[[Any], Iterator[str]]

MOST = 3
"""So much that is wrong is said at once."""

LONGEST = 600
"""Characters of one thing that is wrong."""

MEMORY = 4 << 30
"""Bytes of address space, beyond which an answer gets a MemoryError."""


def judge(check: Check, path: Path) -> Iterator[str]:
    """What is wrong with the answer in this file, in words; nothing if it is right.

    Whatever the file's code raises is told, with its line.
    """
    answer = ModuleType("exercise")
    answer.__file__ = str(path)
    try:
        source = read_text(path)
    except OSError as error:
        yield f"{path.name} cannot be read: {error.strerror}"
        return
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        yield f"{path.name}, line {line}: this is not UTF-8"
        return
    try:
        code = compile(source, str(path), "exec")
        sys.modules["exercise"] = answer  # where dataclasses look for their module
        exec(code, answer.__dict__)
        yield from map(_shortened, itertools.islice(check(answer), MOST))
    except GeneratorExit:
        raise
    except BaseException as error:  # also SystemExit, and what a student makes of BaseException
        yield _shortened(_told(error, path, answer))


def _told(error: BaseException, path: Path, answer: ModuleType) -> str:
    """An exception in words: where in the student's file, and what."""
    name = path.name
    notes = getattr(error, "__notes__", [])
    what = traceback.format_exception_only(error)[-1 - len(notes)].strip()
    what += "".join(f" ({note})" for note in notes)
    frames = [
        (number, frame.f_code.co_name)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(path)
    ]
    if isinstance(error, SyntaxError) and error.filename in (str(path), None):
        line = f"{name}, line {error.lineno}" if error.lineno else name
        return f"{line}: {type(error).__name__}: {error.msg}"
    if frames:
        number, function = frames[-1]
        where = f"{name}, line {number}" + ("" if "<" in function else f", in {function}")
        if isinstance(error, NotImplementedError):
            return f"{where}: this is not written yet"
        return f"{where}: {what}"
    if isinstance(error, AttributeError) and error.obj is answer:
        return f"{name} has no {error.name}, which the exercise asks for"
    return f"the check cannot use {name}: {what}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    with suppress(OSError, ValueError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def main() -> None:
    """Check the answer; the arguments are the lesson's folder, the file, the descriptor that
    takes stacks, and after how many seconds to write them and end."""
    folder, path, stacks, seconds = sys.argv[1:]
    control = Control.inherited()
    assert control is not None
    Guard(control)
    _limit_memory()
    check: Check = import_module(f"ringlet.launcher.lessons.{folder}.check").check
    faulthandler.enable(int(stacks))
    faulthandler.dump_traceback_later(float(seconds), file=int(stacks), exit=True)
    sys.path.append(str(Path(path).parent))  # last, so that nothing of ringlet's is replaced
    control.send({"begins": True})
    own = os.getpid()
    for text in judge(check, Path(path)):
        if os.getpid() != own:  # a fork of the student's has come back
            os._exit(0)
        control.send({"wrong": text})
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if os.getpid() == own:
        control.send({"done": True})
    os._exit(0)  # not waiting for threads and handlers that the student's code has left


if __name__ == "__main__":
    main()
