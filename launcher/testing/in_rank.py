"""What a rank of a test does: the test's call as pytest makes it, and a report for its parent."""

import contextlib
import faulthandler
import io
import os
import pdb  # noqa: T100 - to refuse it
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import IO, Any, NoReturn, TextIO

import pytest

from ringlet.launcher.supervisor.control import Control, Notice
from ringlet.launcher.testing import measured
from ringlet.launcher.workers.called import CalledRank
from ringlet.launcher.workers.worker import Guard, is_echo


def run_test(
    item: pytest.Function,
    streams: Sequence[IO[bytes]],
    rank: int,
    control: Control,
    output: IO[bytes],
) -> None:
    """Join the world, run the test, report, leave the world, and wait for the end. `streams` take
    what the test writes to stdout and stderr, `output` takes stacks."""
    measurement = measured.start_again()
    faulthandler.enable(output)
    called = CalledRank(Guard(control), output)
    _redirect(item.config, rank, streams)
    try:
        world = called.join()
        called.take()
        item.funcargs["world"] = world
        outcome = _outcome(item)
        sys.stdout.flush()
        sys.stderr.flush()
        outcome["coverage"] = measured.taken(measurement)
    except BaseException as error:
        outcome = {"failed": traceback.format_exc(), "echo": is_echo(error)}
    called.answer(_encodable(outcome))
    called.leave()


def _outcome(item: pytest.Function) -> Notice:
    """Make the call as pytest does; returns "result" (passed, skipped, xfailed) or "failed" with
    its text, and what goes into the report."""
    with warnings.catch_warnings(record=True) as warned:
        call = pytest.CallInfo.from_call(
            lambda: item.ihook.pytest_runtest_call(item=item), when="call"
        )
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    outcome: Notice = {
        "reason": "",
        "sections": [
            [name.removeprefix("Captured ").removesuffix(" call"), text]
            for name, text in report.sections
            if name.endswith(" call")
        ],
        "warnings": [_warning(each) for each in warned],
    }
    if call.excinfo is None:
        return {**outcome, "result": "passed"}
    if hasattr(report, "wasxfail"):
        return {**outcome, "result": "xfailed", "reason": report.wasxfail}
    if report.skipped:
        return {**outcome, "result": "skipped", "reason": str(call.excinfo.value)}
    line = call.excinfo.exconly(tryshort=True).partition("\n")[0]
    echo = is_echo(call.excinfo.value)
    return {**outcome, "failed": report.longreprtext, "reason": line, "echo": echo}


def _encodable(value: Any) -> Any:
    """The same with texts that UTF-8 can hold."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _encodable(each) for name, each in value.items()}
    return [_encodable(each) for each in value] if isinstance(value, list) else value


def _warning(message: warnings.WarningMessage) -> list[Any]:
    kind = message.category
    return [
        str(message.message),
        kind.__module__,
        kind.__qualname__,
        message.filename,
        message.lineno,
    ]


def _redirect(config: pytest.Config, rank: int, streams: Sequence[IO[bytes]]) -> None:
    """Capture as pytest does, into files that outlive this process; show the rank where nothing is
    captured; and refuse a debugger, which would have no terminal."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.stop_global_capturing()
        capture.start_global_capturing()
    if config.getoption("capture", "no") == "fd":
        for number, stream in zip((1, 2), streams, strict=True):
            _replace(number, stream)
    elif config.getoption("capture", "no") == "no":
        sys.stdout = _Prefixed(sys.stdout, f"rank {rank}: ")
        sys.stderr = _Prefixed(sys.stderr, f"rank {rank}: ")

    def refuse(*words: Any, **options: Any) -> NoReturn:
        __tracebackhide__ = True
        pytest.fail(
            f"rank {rank} stopped at a breakpoint, and ranks have no terminal: let it print, or "
            "debug the code in a world of one, which comm.init() makes in an ordinary test"
        )

    sys.breakpointhook = pdb.set_trace = pytest.set_trace = refuse


def _replace(number: int, stream: IO[bytes]) -> None:
    """Let all descriptors of the file that descriptor `number` has open refer to the stream."""
    shown = os.fstat(number)
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names are numbers
        with contextlib.suppress(OSError):  # the one of this loop
            if os.path.samestat(os.fstat(int(name)), shown):
                os.dup2(stream.fileno(), int(name))


class _Prefixed(io.TextIOBase):
    """A stream that gets whole lines, each after the prefix: those of several ranks do not mix."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix, self._line = stream, prefix, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        self._stream.flush()
        return len(text)

    def flush(self) -> None:
        if self._line:
            self.write("\n")

    def fileno(self) -> int:
        return self._stream.fileno()
