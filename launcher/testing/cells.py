"""Functions of notebooks, of the interpreter's prompt, or of no file at all, on several ranks.

Such a function cannot be imported anywhere else. Its ranks are forks of this process: they see the
imports, the globals and the arguments that it sees here, and only its results are sent.
"""

import builtins
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

from ringlet.launcher.supervisor.control import Control
from ringlet.launcher.supervisor.signals import noted_signals
from ringlet.launcher.testing.forks import ForkedRanks
from ringlet.launcher.testing.printed import Printed
from ringlet.launcher.workers.called import CalledRank
from ringlet.launcher.workers.worker import Guard, is_echo

_OURS = str(Path(__file__).parents[1])
"""Where the code is that calls a cell's; it is not shown above it in tracebacks."""


def name_of(function: Callable[..., Any]) -> str:
    """The function's name, or what else is known of it."""
    return getattr(function, "__qualname__", None) or repr(function)


class CellRanks(ForkedRanks):
    """`size` forks of this process, for one call of the function."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        size: int,
        transport: str,
        timeout: float,
    ) -> None:
        self._name, self._printed = name_of(function), Printed()
        pipes = [self._printed.pipes(rank) for rank in range(size)]
        program = partial(_run, function, arguments, pipes)
        super().__init__(size, program, transport, self._forking, timeout)

    @contextlib.contextmanager
    def _forking(self) -> Iterator[None]:
        yield
        self._printed.begin()

    def close(self) -> None:
        """End the ranks, all of them, also if Ctrl-C is pressed again meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            super().close()
            return
        with noted_signals(signal.SIGINT) as noted:
            super().close()
        if noted:
            raise KeyboardInterrupt

    def results(self, deadline: float) -> list[Any]:
        """What each rank has returned; raises RanksFailed."""
        try:
            outcomes = self.run(deadline)
        finally:
            self._printed.close()
        return self._results(self._name, outcomes)


def _run(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    pipes: list[tuple[int, int]],
    rank: int,
    control: Control,
    output: IO[bytes],
) -> None:
    """What a rank does. `output` takes stacks."""
    guard = Guard(control)
    _take_streams(*pipes[rank])
    faulthandler.enable(output)
    called = CalledRank(guard, output)
    try:
        world = called.join()
        called.take()
        called.answer_result(name_of(function), function(world, **arguments), tuples=True)
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace))
        called.answer({"failed": text, "echo": is_echo(error)})
    sys.stdout.flush()
    called.leave()


def _take_streams(stdout: int, stderr: int) -> None:
    """Nobody types to a rank, and what it writes goes into its pipes."""

    def refuse(prompt: object = "") -> NoReturn:
        raise EOFError("ranks have no terminal")

    builtins.input = refuse  # a notebook's would ask its browser
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, end in enumerate((nothing, stdout, stderr)):
        os.dup2(end, number)
    sys.stdin = os.fdopen(0, closefd=False)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = os.fdopen(number, "w", 1, "utf-8", "backslashreplace", closefd=False)
        setattr(sys, name, stream)
