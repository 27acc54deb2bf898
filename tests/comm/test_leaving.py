"""A world that was left, or that another process made: every call raises a CommError, at once."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ringlet import comm

CALLS = {
    "all_reduce": lambda w, x: w.all_reduce(np.ones(2)),
    "registered": lambda w, x: w.all_reduce(x),
    "long": lambda w, x: w.all_reduce(np.ones(300_000)),
    "attached": lambda w, x: w.reduce_scatter(np.ones(2_000_000)),
    "all_gather": lambda w, x: w.all_gather(np.ones(2)),
    "all_to_all": lambda w, x: w.all_to_all(np.ones(2)),
    "broadcast": lambda w, x: w.broadcast(np.ones(2)),
    "reduce": lambda w, x: w.reduce(np.ones(2)),
    "gather": lambda w, x: w.gather(np.ones(2)),
    "scatter": lambda w, x: w.scatter(np.ones((w.size, 2)), w.rank),
    "barrier": lambda w, x: w.barrier(),
    "asynchronous": lambda w, x: w.barrier(async_op=True),
    "send": lambda w, x: w.send(np.ones(2), w.size - 1),
    "send here": lambda w, x: w.send(np.ones(2), w.rank),
    "isend": lambda w, x: w.isend(np.ones(2), 0),
    "recv": lambda w, x: w.recv(w.size - 1),
    "irecv": lambda w, x: w.irecv(0),
    "split": lambda w, x: w.split([0]),
    "object": lambda w, x: w.broadcast_object(1),
    "objects": lambda w, x: w.all_gather_object(1),
    "empty": lambda w, x: w.empty(3),
    "no memory": lambda w, x: w.empty(0),
    "stats": lambda w, x: w.stats(),
    "links": lambda w, x: w.measure_links(),
}


def groups_and_works(world):
    """Everything on which something can be called, used before; and works in flight."""
    groups = [world, world.split(range(world.size)), world.split([world.rank])]
    memory = world.empty(100)
    memory[:] = 1
    for group in groups:
        group.all_reduce(np.ones(3))
    ended = world.all_reduce(np.ones(3), async_op=True)
    assert (ended.wait() == world.size).all()
    works = [world.irecv(world.rank), world.irecv(world.size - 1, 7), groups[1].irecv(0, 5)]
    assert not any(work.done() for work in works)
    world.barrier()
    return groups, memory, works, ended


def refusals(groups, memory, works):
    """What each call says, and None for those that raise no CommError or take their time."""
    said = {}
    for number, group in enumerate(groups):
        calls = {name: lambda c=c, g=group: c(g, memory) for name, c in CALLS.items()}
        for name, call in calls.items():
            said[name, number] = refusal(call)
    for number, work in enumerate(works):
        said["wait", number] = refusal(work.wait)
        said["wait a little", number] = refusal(lambda w=work: w.wait(0.1))
        said["done", number] = refusal(work.done)
    return said


def refusal(call):
    began = time.monotonic()
    try:
        call()
    except comm.CommError as error:
        return str(error) if time.monotonic() - began < 10 else None
    return None


def after_shutdown(world):
    groups, memory, works, ended = groups_and_works(world)
    comm.shutdown()
    said = refusals(groups, memory, works)
    assert set(said.values()) == {
        f"rank {world.rank} has left the world: comm.shutdown() was called"
    }, {name: text for name, text in said.items() if not text}
    assert ended.done()
    assert (ended.wait() == world.size).all()  # what has ended well stays so
    comm.shutdown()
    assert comm.last_operation() == ""
    return True


@pytest.mark.parametrize(("size", "transport"), [(1, "auto"), (2, "auto"), (2, "tcp")])
def test_after_shutdown_every_call_says_so(ranks, size, transport):
    with ranks(size, transport) as pool:
        assert all(pool.run(after_shutdown))


def left_by_another_thread(world, where):
    """Rank 0's main thread leaves while others of its threads wait; each gets a CommError."""
    group, found = world.split(range(world.size)), []
    waits = {
        "collective": lambda: group.all_reduce(np.ones(3)),
        "long": lambda: group.all_reduce(np.ones(3_000_000)),
        "recv": lambda: world.recv(1, 5),
        "work": lambda: group.barrier(async_op=True).wait(),
    }
    world.barrier()
    if world.rank == 0:
        started = threading.Event()

        def wait():
            started.set()
            found.append(refusal(waits[where]))

        thread = threading.Thread(target=wait)
        thread.start()
        assert started.wait(10)
        while not comm.last_operation().startswith(("all_reduce", "recv", "barrier #0")):
            os.sched_yield()
        comm.shutdown()
        thread.join(10)
        assert not thread.is_alive()
        assert found[0] is not None
    else:
        with pytest.raises(comm.PeerLost):
            world.recv(0)
    return True


@pytest.mark.parametrize(
    ("where", "transport"),
    [("collective", "auto"), ("recv", "auto"), ("long", "ipc"), ("work", "ipc")],
)
def test_threads_that_wait_are_told_when_the_world_is_left(ranks, where, transport):
    with ranks(2, transport) as pool:
        assert all(pool.run(left_by_another_thread, where=where))


def in_a_fork(world):
    """A child's calls are refused; and it ends, whichever way, while the rank goes on."""
    groups, memory, works, _ = groups_and_works(world)
    works.append(world.irecv(world.size - 1, 8))
    here, there = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        try:
            said = refusals(groups, memory, works)
            comm.shutdown()
            again = refusal(comm.init) if world.size > 1 else ""
            there.send([sorted({str(text) for text in said.values()}), again])
        finally:
            os._exit(0)
    assert here.poll(20), "the child does not end"
    (said, *others), again = here.recv()
    os.waitpid(child, 0)
    assert others == []
    assert said.startswith(
        f"process {child} was forked from rank {world.rank}, and a world belongs"
    )
    assert again is not None
    memory[:] = 1
    assert (world.all_reduce(memory) == world.size).all()
    for peer, tag in ((world.rank, 0), (0, 7), (0, 8)):
        world.isend(np.ones(1), peer, tag)
    for group in groups:
        assert (group.all_reduce(np.ones(300_000)) == group.size).all()
    return True


@pytest.mark.parametrize(("size", "transport"), [(1, "auto"), (2, "auto"), (2, "tcp")])
def test_in_a_forked_child_every_call_says_so_and_the_rank_goes_on(ranks, size, transport):
    with ranks(size, transport) as pool:
        assert all(pool.run(in_a_fork))


ENDS = {
    "returns": "pass", "exits": "sys.exit(3)", "raises": "raise ValueError", "shuts down":
    "comm.shutdown()", "shuts down twice": "comm.shutdown(); comm.shutdown()",
    "lets go": "del world, group, memory; import gc; gc.collect()",
}  # fmt: skip

SCRIPT = """
import os, sys, numpy as np
from ringlet import comm
world = comm.init()
group, memory = world.split([0]), world.empty(100)
work = world.all_reduce(np.ones(3), async_op=True)
if os.fork() == 0:
    {end}
else:
    status = os.wait()[1]
    work.wait()
    print("goes on", world.all_reduce(np.ones(1))[0], os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("end", ENDS)
def test_a_forked_child_ends_however_it_ends(end):
    """As a script: what runs at the end of an interpreter is the parent's, too."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RINGLET_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=ENDS[end])],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
    )
    code = {"exits": 3, "raises": 1}.get(end, 0)
    assert (done.stdout, done.returncode) == (f"goes on 1.0 {code}\n", 0), done.stderr
