"""`launcher.spawn`: functions of scripts and of notebooks on new ranks."""

import collections
import linecache
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from ringlet.launcher import spawn
from ringlet.launcher.testing.pool import RanksFailed, WorkerPool

CELL = """
import collections, math, os, sys, threading
import numpy as np

SCALE, LOCK = 3, threading.Lock()

class Model:
    def __init__(self, width):
        self.width = width

def helper(x):
    return math.floor(x * SCALE)

def squared(world, power, model=Model(5)):
    with LOCK:
        total = world.all_reduce(np.full(2, world.rank + 1.0))
    return total, helper(world.rank ** power), model.width, os.getpid()

def outer(offset):
    return lambda world: world.rank + offset

def reader(world):
    return input("a number: ")

def writer(world):
    print("out", world.rank)
    print("err", world.rank, file=sys.stderr)
    os.write(1, b"no newline")

def stumble(world):
    if world.rank == 1:
        raise ValueError("over the step")
    world.barrier()
"""


@pytest.fixture
def cell():
    """The names of a notebook whose first cell has run."""
    name = "<cell 7>"
    linecache.cache[name] = (len(CELL), None, CELL.splitlines(keepends=True), name)
    names = {"__name__": "__main__"}
    exec(compile(CELL, name, "exec"), names)
    yield names
    del linecache.cache[name]


def test_a_cells_function_sees_what_the_cell_sees(cell):
    results = spawn(cell["squared"], 2, power=2)
    for rank, (total, scaled, width, pid) in enumerate(results):
        assert total.tolist() == [3.0, 3.0]
        assert (scaled, width) == (3 * rank**2, 5)
        assert pid != os.getpid()
    cell["SCALE"] = 10  # a later cell
    results = spawn(cell["squared"], 2, power=1, model=cell["Model"](7))
    assert [(scaled, width) for _, scaled, width, _ in results] == [(0, 7), (10, 7)]
    assert spawn(cell["outer"](4), 2) == [4, 5]
    assert spawn(eval("lambda world: world.size"), 2) == [2, 2]


def test_a_cells_failure_shows_the_cells_lines(cell):
    with pytest.raises(RanksFailed, match="over the step") as caught:
        spawn(cell["stumble"], 2)
    assert list(caught.value.failures) == [1, 0]
    text = caught.value.failures[1]
    assert 'File "<cell 7>", line ' in text
    assert "cells.py" not in text
    with pytest.raises(RanksFailed, match="EOFError: ranks have no terminal"):
        spawn(cell["reader"], 1)


def writer(world):
    print("out", world.rank)
    print("err", world.rank, file=sys.stderr)
    os.write(1, b"no newline")


@pytest.mark.parametrize("where", ["a file", "a cell"])
def test_output_says_which_rank(cell, where, capsys):
    spawn(writer if where == "a file" else cell["writer"], 2)
    stdout, stderr = capsys.readouterr()
    lines = [f"rank {rank}: {text}" for rank in range(2) for text in (f"out {rank}", "no newline")]
    assert sorted(stdout.splitlines()) == sorted(lines)
    assert sorted(stderr.splitlines()) == ["rank 0: err 0", "rank 1: err 1"]


class Named(collections.namedtuple("Named", "a b")):
    pass


VALUES = [
    (), (1, (2.5, "x", None), [(True,)]), {"a": (1,), (1, 2): b"b"}, [], Named(1, 2),
    collections.OrderedDict(a=(1,)), np.float64(2.5), np.str_("text"),
]  # fmt: skip


def both_ways(world, value):
    assert isinstance(value, tuple | list | dict | float | str)
    return repr(value), value


def test_tuples_stay_tuples():
    with WorkerPool(1, tuples=True) as pool:
        for value in VALUES:
            ((there, back),) = pool.run(both_ways, value=value)
            plain = tuple(value) if isinstance(value, tuple) else value
            kind = next(k for k in (tuple, list, dict, float, str) if isinstance(value, k))
            assert type(back) is kind
            assert (there, back) == (repr(kind(plain)), plain)


def unsendable(world, value=None):
    return {1, 2}


def test_what_cannot_be_sent_is_named(cell):
    with pytest.raises(TypeError, match="unsendable: the argument value, a set, cannot be sent"):
        spawn(unsendable, 1, value={1})
    for function in (unsendable, eval("lambda world: {1}")):
        with pytest.raises(RanksFailed, match="has returned a set that cannot be sent: "):
            spawn(function, 1)


def test_a_function_that_ranks_cannot_import_is_refused():
    with pytest.raises(TypeError, match="not a module-level function"):
        spawn(lambda world: None, 2)


UNGUARDED = {
    "spawn": "spawn(f, 2)",
    "a pool": "with WorkerPool(2) as pool: pool.run(f)",
    "guarded": "if __name__ == '__main__': print(spawn(f, 2))",
}


@pytest.mark.parametrize("case", UNGUARDED)
def test_without_a_main_guard_nothing_multiplies(case, tmp_path):
    """Each rank imports the script; none of them may start more."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from ringlet.launcher import spawn
        from ringlet.launcher.testing.pool import WorkerPool
        with open({str(tmp_path / "imports")!r}, "a") as file:
            file.write(__name__ + "\\n")
        def f(world):
            return world.rank
        {UNGUARDED[case]}
    """)
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    imports = (tmp_path / "imports").read_text().splitlines()
    assert len(imports) <= 3
    if case == "guarded":
        assert (done.returncode, done.stdout) == (0, "[0, 1]\n"), done.stderr
    else:
        assert done.returncode == 1
        assert f"RuntimeError: {script} starts ranks, and these import it" in done.stderr
