"""`@pytest.mark.world(n)`, faults to order, and `launcher.spawn`."""

import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from ringlet import comm
from ringlet.comm.faults import parse_fault
from ringlet.launcher import spawn
from ringlet.launcher.testing.pool import RanksFailed

SUITE = """
import numpy as np
import pytest
from ringlet import comm

@pytest.fixture
def numbers():
    return np.arange(4.0)

@pytest.mark.world(3)
@pytest.mark.parametrize("factor", [1, 2])
def test_passes(world, numbers, factor, tmp_path):
    assert world.size == 3
    assert tmp_path.is_dir()
    assert (world.all_reduce(numbers * factor) == 3 * factor * np.arange(4)).all()

@pytest.mark.parametrize("turn", range(20))
@pytest.mark.world(3)
def test_is_warm(world, turn):
    world.barrier()

@pytest.mark.world(3)
def test_fails_on_two_ranks(world):
    if world.rank:
        raise ValueError(f"odd thing on {world.rank}")

@pytest.mark.world(2, deadline=1)
def test_hangs(world):
    if world.rank == 1:
        import time
        time.sleep(60)

@pytest.mark.world(3, faults=["kill rank 2 at its third all_reduce"], failing=[2])
def test_survivors(world):
    for _ in range(2):
        world.all_reduce(np.ones(2))
    with pytest.raises(comm.PeerLost, match="rank 2"):
        world.all_reduce(np.ones(2))
        world.barrier()

@pytest.mark.world(3, failing=[1])
def test_nobody_fails(world):
    pass

def test_without_a_mark(world):
    pass

def test_of_its_own():
    assert True
"""


def test_the_marker(tmp_path):
    """One session: what passes, what fails and how, and nothing but milliseconds for warm tests."""
    (tmp_path / "test_it.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "ringlet.launcher.testing.pytest_plugin", "-rA",
         "-v", "--strict-markers", "--durations=0", "test_it.py"],
        cwd=tmp_path, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    out = done.stdout
    assert "3 failed, 24 passed, 1 error" in out, out + done.stderr
    for name in ("fails_on_two_ranks", "hangs", "nobody_fails"):
        assert f"FAILED test_it.py::test_{name}" in out
    assert "ERROR test_it.py::test_without_a_mark" in out
    for text in (
        "--- rank 1 ---", "--- rank 2 ---", "odd thing on 1", "odd thing on 2",
        "has not returned within 1 s", "ranks [1] should have failed",
        "needs @pytest.mark.world(size)",
    ):  # fmt: skip
        assert text in out, text


# -- faults ---------------------------------------------------------------------------------------


def under_faults(world):
    """What this rank met in three sums, by name."""
    met = []
    for _ in range(3):
        began = time.monotonic()
        try:
            total = world.all_reduce(np.ones(1000), timeout=1.0)
        except comm.CommError as error:
            met.append(type(error).__name__)
            break
        met.append(float(total[0]) if (total == total[0]).all() else "damaged")
        if time.monotonic() - began > 0.3:
            met.append("late")
    return met


def test_faults_happen_where_they_are_told_to(ranks):
    pool = ranks(2, "ipc")
    fault = "delay rank 1 at its second all_reduce by 0.4 s"
    assert pool.run(under_faults, faults=[fault]) == [[2.0, 2.0, "late", 2.0]] * 2
    fault = "duplicate rank 0 at its 3rd all_reduce"
    assert pool.run(under_faults, faults=[fault]) == [[2.0] * 3] * 2
    assert pool.run(under_faults) == [[2.0] * 3] * 2  # they are gone with their test
    met = pool.run(under_faults, faults=["drop rank 1 at its first all_reduce"])
    assert "CommTimeout" in [m[-1] for m in met]
    pool.close()  # that group is broken for good
    met = pool.run(under_faults, faults=["corrupt rank 0 at its 3rd all_reduce"])
    assert met[1] == [2.0, 2.0, "CommError"]
    pool.close()


@pytest.mark.parametrize(
    "text",
    ["", "kill rank 2", "kill rank two at its first barrier", "kill rank 1 at its 0th barrier",
     "maim rank 1 at its first barrier", "delay rank 1 at its first barrier",
     "kill rank 1 at its first barrier by 2 s", "kill rank 1 in its first send",
     "drop rank 1 in its first barrier"],
)  # fmt: skip
def test_what_is_no_fault(text):
    with pytest.raises(ValueError, match="is not a fault"):
        parse_fault(text)


def test_faults_that_cannot_happen_are_refused(ranks):
    with pytest.raises(ValueError, match="the ranks are 0 to 1"):
        ranks(2).run(under_faults, faults=["kill rank 2 at its first barrier"])
    with pytest.raises(RanksFailed, match="use the transport ipc or tcp"):
        ranks(2).run(under_faults, faults=["drop rank 1 at its first all_reduce"])


def faults_of_a_generator(world):
    comm.inject(text for text in ["delay rank 1 at its second all_reduce by 0.4 s"])
    return under_faults(world)


def test_faults_can_come_from_a_generator(ranks):
    assert ranks(2).run(faults_of_a_generator) == [[2.0, 2.0, "late", 2.0]] * 2


# -- spawn ----------------------------------------------------------------------------------------

NOTEBOOK = """
def ranks_squared(world, power):
    return world.all_reduce(np.full(2, world.rank + 1.0)).tolist(), world.rank ** power
"""


def test_spawn_runs_a_notebooks_function_too():
    import linecache

    name = "<cell 7>"
    linecache.cache[name] = (len(NOTEBOOK), None, NOTEBOOK.splitlines(keepends=True), name)
    names = {}
    exec(compile(textwrap.dedent(NOTEBOOK), name, "exec"), names)
    assert spawn(names["ranks_squared"], 2, power=2) == [[[3.0, 3.0], 0], [[3.0, 3.0], 1]]
    with pytest.raises(TypeError, match="not a module-level function"):
        spawn(lambda world: None, 2)
