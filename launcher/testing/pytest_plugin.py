"""The pytest plugin: `@pytest.mark.world(4)` runs a test on four ranks.

    @pytest.mark.world(4)
    def test_sum(world):                      # every rank runs this
        x = np.ones(3)
        world.all_reduce(x)
        assert (x == world.size).all()

    @pytest.mark.world(3, faults=["kill rank 2 at its third all_reduce"], failing=[2])
    def test_survivors_notice(world): ...

The ranks of a test are forks of pytest's process, made for it and gone after it: whatever the test
file, its conftest and its fixtures are in that process, they are on every rank, and nothing that a
test does on its ranks reaches another. See docs/how-to/testing.md.
"""

import inspect
import operator
import os
import sys
import tempfile
import unittest
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest

from ringlet.launcher.testing import measured

if TYPE_CHECKING:
    from ringlet.launcher.supervisor.control import Notice

HELP = (
    "world(size, deadline=30, transport='auto', faults=(), failing=()): run the test on `size` "
    "ranks; it fails when one does that is not in `failing`, or after `deadline` seconds"
)

TRANSPORTS = ("auto", "ipc", "tcp")

SHOWN_BYTES = 1 << 20
"""The most that is shown of what a rank has written that was killed."""

_LAYOUT = pytest.StashKey["Layout"]()


class Layout(NamedTuple):
    """What the marker says: on which ranks a test runs, and which of them have to fail."""

    size: int
    deadline: float = 30.0
    transport: str = "auto"
    faults: Sequence[str] = ()
    failing: Sequence[int] = ()


class Elsewhere:
    """The fixture `world` outside of the ranks: says so when it is used."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(
            f"world.{name}: the world exists on the ranks only, while the test's function runs; "
            "fixtures are made once, in pytest's own process"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", HELP)


@pytest.fixture(scope="session")
def world() -> Elsewhere:
    """The rank's world, which only exists on the ranks."""
    return Elsewhere()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse what cannot run on ranks, before fixtures are made for it; skips come first."""
    mark = item.get_closest_marker("world")
    if mark is None:
        return
    problem = None
    try:
        item.stash[_LAYOUT] = _layout(mark)
        _check_item(item)
    except (TypeError, ValueError) as error:
        problem = error
    if problem is not None:
        pytest.fail(f"@pytest.mark.world: {problem}", pytrace=False)


def _layout(mark: pytest.Mark) -> Layout:
    """The marker's arguments, checked; raises TypeError or ValueError."""
    from ringlet.comm.faults import parse_fault

    try:
        layout = Layout(*mark.args, **mark.kwargs)
    except TypeError as error:
        given = str(error).removeprefix("Layout.__new__() ")
        raise TypeError(f"{given}; write {HELP.partition(':')[0]}") from None
    size = _whole(layout.size, "size")
    if size < 1:
        raise ValueError(f"size is {size}: a test needs at least one rank")
    if isinstance(layout.deadline, bool) or not isinstance(layout.deadline, int | float):
        raise TypeError(f"deadline is {layout.deadline!r}: it is a number of seconds")
    if not 0 < layout.deadline < float("inf"):
        raise ValueError(f"deadline is {layout.deadline}: it is a number of seconds above 0")
    if layout.transport not in TRANSPORTS:
        raise ValueError(f"transport is {layout.transport!r}: it is one of {', '.join(TRANSPORTS)}")
    for name, values in (("faults", layout.faults), ("failing", layout.failing)):
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(f"{name} is {values!r}: it is a list")
    failing = [_whole(rank, "failing") for rank in layout.failing]
    for rank in failing + [parse_fault(fault).rank for fault in layout.faults]:
        if not 0 <= rank < size:
            raise ValueError(f"there is no rank {rank}: the ranks are 0 to {size - 1}")
    return layout._replace(size=size, failing=failing)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value}: it is a whole number")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}: it is a whole number") from None


def _check_item(item: pytest.Item) -> None:
    """Raise TypeError if the test is of a kind that ranks cannot run."""
    cls = getattr(item, "cls", None)
    if not isinstance(item, pytest.Function) or (cls and issubclass(cls, unittest.TestCase)):
        raise TypeError(
            "it is for functions, and for methods of plain classes, not of unittest.TestCase"
        )
    function = item.obj
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{item.originalname} is async, and a rank waits in its calls: write an ordinary "
            "function that calls asyncio.run"
        )
    if "subtests" in item.fixturenames:
        raise TypeError("the fixture subtests reports from pytest's own process: parametrize")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test on its ranks; on each of them this is called again, for the function."""
    __tracebackhide__ = True
    layout = pyfuncitem.stash.get(_LAYOUT, None)
    if layout is None:
        _check_no_world(pyfuncitem)
        return None
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2 * layout.size)]
        streams = [files[2 * rank : 2 * rank + 2] for rank in range(layout.size)]
        outcomes = _run(pyfuncitem, layout, streams)
        for rank, outcome in sorted(outcomes.items()):
            _take(pyfuncitem, rank, outcome, streams[rank])
    _judge(layout, outcomes)
    return True


def _check_no_world(item: pytest.Function) -> None:
    if isinstance(item.funcargs.get("world"), Elsewhere):
        pytest.fail("the fixture `world` needs @pytest.mark.world(size)", pytrace=False)


def _run(
    item: pytest.Function, layout: Layout, streams: Sequence[Sequence[IO[bytes]]]
) -> dict[int, "Notice"]:
    """How the test has ended on each rank."""
    __tracebackhide__ = True
    from ringlet.launcher.testing.forks import ForkedRanks
    from ringlet.launcher.testing.in_rank import run_test
    from ringlet.launcher.testing.ranks import RanksFailed

    def program(rank: int, control: Any, output: IO[bytes]) -> None:
        del item.stash[_LAYOUT]
        run_test(item, streams[rank], rank, control, output)

    ranks = ForkedRanks(layout.size, program, layout.transport, partial(_uncaptured, item))
    try:
        return ranks.run(layout.deadline, layout.faults)
    except RanksFailed as error:
        pytest.fail(str(error), pytrace=False)


@contextmanager
def _uncaptured(item: pytest.Function) -> Iterator[None]:
    """Without pytest's capturing, in whose files a fork would write and read, too."""
    capture = item.config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        yield
        return
    capture.deactivate_fixture()
    capture.suspend_global_capture(in_=True)
    out, err = capture.read_global_capture()
    try:
        yield
    finally:
        capture.resume_global_capture()
        capture.activate_fixture()
        item.add_report_section("call", "stdout", out)
        item.add_report_section("call", "stderr", err)


def _take(
    item: pytest.Function, rank: int, outcome: "Notice", streams: Sequence[IO[bytes]]
) -> None:
    """Put into the report what a rank has written, warned of, and covered."""
    sections = outcome.get("sections")
    if sections is None:  # it cannot say any more
        names = zip(("stdout", "stderr"), streams, strict=True)
        sections = [(name, _content(stream)) for name, stream in names]
    for name, text in sections:
        item.add_report_section("call", f"{name} of rank {rank}", text)
    for text, module, name, file, line in outcome.get("warnings", ()):
        kind = getattr(sys.modules.get(module), name, UserWarning)
        warnings.warn_explicit(f"rank {rank}: {text}", kind, file, line)
    measured.add(outcome.get("coverage"))


def _content(stream: IO[bytes]) -> str:
    return os.pread(stream.fileno(), SHOWN_BYTES, 0).decode(errors="replace")


def _judge(layout: Layout, outcomes: dict[int, "Notice"]) -> None:
    """The verdict: as the ranks say, the worst of them first."""
    failed = {rank: outcome for rank, outcome in outcomes.items() if "failed" in outcome}
    unexpected = {rank: failed[rank] for rank in sorted(failed) if rank not in layout.failing}
    if unexpected:
        pytest.fail(_text(layout, unexpected), pytrace=False)
    if missing := [rank for rank in layout.failing if rank not in failed]:
        pytest.fail(f"{_ranks(missing)} should have failed, and did not", pytrace=False)
    for result, end in (("skipped", _skip), ("xfailed", pytest.xfail)):
        reasons: dict[str, list[int]] = {}
        for rank, outcome in sorted(outcomes.items()):
            if outcome.get("result") == result:
                reasons.setdefault(outcome["reason"], []).append(rank)
        if reasons:
            everywhere = sum(map(len, reasons.values())) == layout.size and len(reasons) == 1
            end("; ".join(
                reason if everywhere else f"{_ranks(ranks)}: {reason}"
                for reason, ranks in reasons.items()
            ))  # fmt: skip


def _skip(reason: str) -> NoReturn:
    raise pytest.skip.Exception(reason, _use_item_location=True)


def _text(layout: Layout, failed: dict[int, "Notice"]) -> str:
    """The failures, each once: the ranks with the same one together, and of echoes, which other
    ranks' failures have caused, only what they are."""
    roots = {rank: outcome for rank, outcome in failed.items() if not outcome["echo"]}
    same: dict[str, list[int]] = {}
    for rank, outcome in (roots or failed).items():
        text = outcome["failed"].rstrip()
        same.setdefault(text.replace(f"Group(rank={rank},", "Group("), []).append(rank)
    first = failed[next(iter(same.values()))[0]]
    reason = first.get("reason") or first["failed"].partition("\n")[0]
    parts = [f"{reason} ({_ranks(list(failed))} of {layout.size})"]
    for ranks in same.values():
        parts.append(f"--- {_ranks(ranks)} ---\n{failed[ranks[0]]['failed'].rstrip()}")
    for rank in failed.keys() - (roots or failed).keys():
        parts.append(f"--- rank {rank}, an echo of that ---\n{failed[rank]['reason']}")
    return "\n".join(parts)


def _ranks(ranks: list[int]) -> str:
    """rank 0; ranks 0, 1 and 3"""
    *most, last = map(str, ranks)
    return f"ranks {', '.join(most)} and {last}" if most else f"rank {last}"
