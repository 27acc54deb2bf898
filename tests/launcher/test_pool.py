"""Warm ranks: results, failures with every rank's traceback, ranks that hang, a fresh start."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from ringlet.launcher.testing.pool import RanksFailed, WorkerPool


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as started:
        yield started


def identity(world, offset=0):
    return [world.rank + offset, os.getpid()]


def stumble(world):
    if world.rank == 1:
        raise ValueError("over the step")
    world.barrier()


def vanish(world):
    if world.rank == 1:
        os._exit(7)
    world.barrier()


def sleep_on_rank_0(world):
    time.sleep(30 if world.rank == 0 else 0)
    return world.rank


def interrupt_the_caller(world, pid):
    if world.rank == 0:
        os.kill(pid, signal.SIGUSR2)
    threading.Event().wait()


def double(world, array):
    return array * 2


def test_results_come_by_rank_from_processes_that_stay(pool):
    first, second = pool.run(identity), pool.run(identity, offset=10)
    assert [rank for rank, _ in first] == [0, 1]
    assert [rank for rank, _ in second] == [10, 11]
    assert [pid for _, pid in first] == [pid for _, pid in second]


def test_arrays_go_there_and_back(pool):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for result in pool.run(double, array=array):
        assert result.dtype == array.dtype
        assert (result == array * 2).all()


def test_a_failure_shows_its_traceback_first_and_the_next_call_starts_anew(pool):
    before = pool.run(identity)
    with pytest.raises(RanksFailed, match="over the step") as caught:
        pool.run(stumble)
    assert list(caught.value.failures) == [1, 0]
    assert "in stumble" in caught.value.failures[1]
    assert "echo" in caught.value.failures[0]
    after = pool.run(identity)
    assert {pid for _, pid in before}.isdisjoint(pid for _, pid in after)


def test_a_rank_that_ends_is_named(pool):
    with pytest.raises(RanksFailed, match="exited with code 7") as caught:
        pool.run(vanish)
    assert "PeerLost" in caught.value.failures[0]


def test_a_rank_that_hangs_shows_where(pool):
    pool.run(identity)
    with pytest.raises(RanksFailed, match="has not returned within 1 s") as caught:
        pool.run(sleep_on_rank_0, deadline=1.0)
    assert "sleep_on_rank_0" in caught.value.failures[0]
    assert caught.value.results == {1: 1}


class Interrupted(BaseException):
    """What Ctrl-C or a test's time limit raises in whoever waits for the ranks."""


def test_after_an_interrupted_call_the_next_one_gets_its_own_results(pool):
    def interrupt(number, frame):
        raise Interrupted

    before = signal.signal(signal.SIGUSR2, interrupt)
    try:
        with pytest.raises(Interrupted):
            pool.run(interrupt_the_caller, pid=os.getpid())
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert [rank for rank, _ in pool.run(identity, offset=5)] == [5, 6]


def leave_a_note(world, path):
    import atexit

    atexit.register(lambda: (path / f"{world.rank}").touch())


def test_ranks_of_a_closed_pool_end_as_programs_do(tmp_path):
    with WorkerPool(2) as pool:
        pool.run(leave_a_note, path=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_function_that_workers_cannot_find_is_refused(pool):
    with pytest.raises(TypeError, match="not a module-level function"):
        pool.run(lambda world: None)


def test_the_functions_file_imports_what_its_caller_can(pool, tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "program.py").write_text(
        "from beside import add\n\n\ndef added(world):\n    return add(world.rank, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from program import added

    assert pool.run(added) == [1, 2]
