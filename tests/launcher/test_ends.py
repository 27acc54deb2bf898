"""However the launcher or a worker ends, nothing that it started goes on."""

import os
import signal
import time

import pytest

PREPARED = """
import os, signal, subprocess, sys, time, warnings
from pathlib import Path

rank = os.environ["RANK"]

def note(name, number=1):
    Path(f"{name}{rank}").write_text(f"{number}\\n")

def child():
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.DEVNULL)
    note("child", process.pid)
    return process

"""

WAITING = PREPARED + "child(); note('pid', os.getpid()); time.sleep(60)"

IGNORING = (
    PREPARED
    + """
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: note(f"got{number}_"))
child()
note("pid", os.getpid())
while True:
    time.sleep(60)
"""
)

SAVING = (
    PREPARED
    + """
class Stop(Exception):
    pass

def stop(number, frame):
    raise Stop(number)

signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
note("pid", os.getpid())
try:
    time.sleep(60)
except Stop as reason:
    time.sleep(0.5)
    print("saved on", reason)
    sys.exit(75)
"""
)

JOINED = (
    PREPARED
    + """
from ringlet import comm
child()
world = comm.init()
world.barrier()
note("pid", os.getpid())
if rank == "0":
    world.recv(1)  # never comes
time.sleep(60)
"""
)

JOINING = (
    PREPARED
    + """
child()
note("pid", os.getpid())
if rank == "0":
    from ringlet import comm
    comm.init()  # rank 1 never comes
time.sleep(60)
"""
)


HOLDING = (
    PREPARED
    + """
import ctypes
child()
note("pid", os.getpid())
ctypes.PyDLL(None).sleep(60)  # holds Python's lock: no other thread runs
"""
)

STOPPED = PREPARED + "child(); note('pid', os.getpid()); os.kill(os.getpid(), signal.SIGSTOP)"


def processes(running, names=("pid", "child"), size=2):
    """The pids of all ranks and of what they started, once all have written them down."""
    return [running.number(f"{name}{rank}") for name in names for rank in range(size)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_ends_workers_that_do_nothing_about_it(launch, number):
    running = launch(WAITING)
    pids = processes(running)
    running.process.send_signal(number)
    assert running.ended_within(5)
    assert running.process.returncode == 128 + number
    assert running.gone(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_may_save_after_a_signal_and_choose_their_exit_code(launch, number):
    running = launch(SAVING)
    processes(running, ["pid"])
    running.process.send_signal(number)
    code, stdout, _ = running.end()
    assert code == 75
    assert stdout.count(f"saved on {int(number)}\n") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_sigint_kills_at_once(launch, number):
    running = launch(IGNORING)
    pids = processes(running)
    running.process.send_signal(number)
    for rank in range(2):
        running.number(f"got{int(number)}_{rank}")
    assert not running.ended_within(0.5)
    running.process.send_signal(signal.SIGINT)
    assert running.ended_within(2)
    assert running.process.returncode == 128 + signal.SIGKILL
    assert running.gone(pids)


def test_after_the_grace_who_has_not_ended_is_killed(launch):
    running = launch(IGNORING, options=("-n", "2", "--grace", "1"))
    pids = processes(running)
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.ended_within(5)
    assert time.monotonic() - began > 0.9
    assert running.process.returncode == 128 + signal.SIGKILL
    assert running.gone(pids)


@pytest.mark.parametrize("text", [WAITING, IGNORING, JOINED, JOINING, HOLDING, STOPPED])
def test_sigkill_of_the_launcher_leaves_nothing(launch, text):
    """Neither workers nor what they started, nor (the fixture looks) socket files."""
    running = launch(text)
    pids = processes(running)
    if text == JOINING:
        assert running.temporary_files("*/rendezvous")
    running.process.kill()
    assert running.gone(pids, 5)


MOMENTS = {
    "its folder is made": "ringlet.*",
    "it is listed": "ringlet-run-*/*.sock",
    "rank 0 waits for the others": "ringlet.*/rendezvous",
}


def test_ranks_that_are_stopped_do_not_hold_up_the_end(launch):
    running = launch(STOPPED, options=("-n", "2", "--grace", "0.5"))
    pids = processes(running)
    running.process.send_signal(signal.SIGTERM)
    assert running.ended_within(5)
    assert running.process.returncode == 128 + signal.SIGKILL
    assert running.gone(pids)


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_launcher_leaves_that_is_killed_early_goes_at_the_next_start(launch, moment):
    """The fixture looks."""
    alone = {"XDG_RUNTIME_DIR": ""}
    running = launch(JOINING, variables=alone)
    assert running.temporary_files(MOMENTS[moment])
    running.process.kill()
    running.process.wait()
    assert launch("print(1)", options=("-n", "1"), variables=alone).end() == (0, "1\n", "")


def test_what_a_finished_worker_started_ends_though_others_go_on(launch):
    text = (
        PREPARED
        + """
if rank == "0":
    child()
    sys.exit()
time.sleep(60)
"""
    )
    running = launch(text)
    pid = running.number("child0")
    assert running.gone([pid], 5)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGTERM)
    assert running.ended_within(5)


FORKED = (
    PREPARED
    + """
warnings.simplefilter("ignore")  # Python 3.12 warns of threads
pid = os.fork()  # holds the pipes and the channel to the launcher
if pid == 0:
    BEFORE
    time.sleep(60)
    os._exit(0)
note("child", pid)
print("done", flush=True)
"""
)


def test_a_forked_child_ends_with_its_worker(launch):
    running = launch(FORKED.replace("BEFORE", "pass"), options=("-n", "1"))
    pid = running.number("child0")
    assert running.ended_within(5)
    assert running.gone([pid])
    assert running.end() == (0, "done\n", "")


def test_a_daemon_that_writes_for_ever_holds_nothing_up(launch):
    text = FORKED.replace("BEFORE", "os.setsid()\n    while True: os.write(1, b'y' * 4096)")
    running = launch(text, options=("-n", "1"))
    pid = running.number("child0")
    try:
        code, stdout, _ = running.end()
    finally:
        os.kill(pid, signal.SIGKILL)
    assert code == 0
    assert "done" in stdout  # print writes the line in pieces, between which the daemon writes


def test_a_daemon_that_left_the_group_lives_on_and_holds_nothing_up(launch):
    running = launch(FORKED.replace("BEFORE", "os.setsid()"), options=("-n", "1"))
    pid = running.number("child0")
    try:
        assert running.ended_within(5)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert running.end() == (0, "done\n", "")
