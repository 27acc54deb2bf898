"""Ranks from the cells of a notebook: `%load_ext ringlet.launcher.notebook`, and then

    %%ranks 4
    x = world.all_reduce(np.ones(3))
    x

runs the cell on four new ranks of this host, forks of the notebook's process. Each finds what other
cells have made, and `world`; what it makes is gone when it has ended. Lines that ranks print appear
as they come, after their rank, as does what the last expression gives.

This is an extension of IPython, which is not imported here.
"""

import ast
import linecache
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any

from ringlet.comm.group import Group
from ringlet.comm.schedules.svg import counted
from ringlet.launcher.testing.cells import CellRanks
from ringlet.launcher.testing.ranks import RanksFailed

TIMEOUT_S, DEADLINE_S = 300.0, 7 * 24 * 3600.0
"""How long a rank waits for another, and for how long a cell may run."""

MOST = 64
"""Ranks; each is a process."""

_numbers = count(1)


class CellFailed(Exception):
    """Shown as it is, without this process's own stack."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


class CellInterrupted(KeyboardInterrupt):
    """The same for who has interrupted the cell."""

    _render_traceback_ = CellFailed._render_traceback_


def load_ipython_extension(shell: Any) -> None:
    """Add the magic %%ranks; IPython calls this for %load_ext."""
    shell.register_magic_function(partial(_magic, shell), "cell", "ranks")


def unload_ipython_extension(shell: Any) -> None:
    """Remove it."""
    shell.magics_manager.magics["cell"].pop("ranks", None)


def _magic(shell: Any, line: str, cell: str) -> None:
    words = line.split()
    if len(words) != 1 or not words[0].isdecimal() or not 1 <= int(words[0]) <= MOST:
        raise CellFailed(f"%%ranks takes a number of ranks, 1 to {MOST}, as in %%ranks 4")

    def prepare() -> None:
        shell.display_pub.publish = _print_text  # its own way leads through the parent's threads

    run_on_ranks(shell.transform_cell(cell), int(words[0]), shell.user_ns, prepare)


def _print_text(data: Mapping[str, Any], *given: Any, **options: Any) -> None:
    print(data.get("text/plain", ""))


def run_on_ranks(
    source: str, size: int, names: dict[str, Any], prepare: Callable[[], None] = lambda: None
) -> None:
    """Run Python on `size` forks of this process, in these `names` and with `world`, after
    `prepare()`.

    Prints what they print, and what the last expression gives unless a semicolon ends it. Raises
    CellFailed with the traceback of the first failure, or what is wrong with the syntax; nothing of
    the ranks is left, however this ends.
    """
    try:
        work = _compiled(source, names, prepare)
    except SyntaxError as error:
        text = "".join(traceback.format_exception_only(error))
        raise CellFailed(text.rstrip()) from None
    ranks = CellRanks(work, {}, size, "auto", TIMEOUT_S)
    try:
        ranks.results(DEADLINE_S)
    except RanksFailed as error:
        (rank, text), *others = error.failures.items()
        also = f"\n({counted(len(others), 'other rank')} failed, too)"
        raise CellFailed(f"rank {rank}: {text.rstrip()}{also if others else ''}") from None
    except KeyboardInterrupt:
        raise CellInterrupted(f"interrupted: the {size} ranks were ended") from None


def _compiled(
    source: str, names: dict[str, Any], prepare: Callable[[], None]
) -> Callable[[Group], None]:
    """What a rank does; raises SyntaxError. Tracebacks have the cell's lines."""
    place = f"<ranks {next(_numbers)}>"
    tree = ast.parse(source, place)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";"):
        expression = tree.body.pop()
        assert isinstance(expression, ast.Expr)
        last = compile(ast.Expression(expression.value), place, "eval")
    body = compile(tree, place, "exec")
    lines = source.splitlines(keepends=True)
    linecache.cache[place] = (len(source), None, lines, place)

    def run(world: Group) -> None:
        prepare()
        names["world"] = world
        exec(body, names)
        value = None if last is None else eval(last, names)
        if value is not None:
            print(repr(value))

    run.__qualname__ = place
    return run
