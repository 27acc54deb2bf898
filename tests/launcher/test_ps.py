"""`ringlet ps`: what runs, what each rank does, and entries of launchers that are no more."""

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from commands import outcome

SCRIPT = """
import os, time
import numpy as np
from ringlet import comm
open("early", "w").write("1\\n")
while not os.path.exists("join"):
    time.sleep(0.01)
world = comm.init()
world.all_reduce(np.ones(1000, np.float32), label="gradients")
open(f"pid-{world.rank}", "w").write(f"{os.getpid()}\\n")
if world.rank == 1:
    while not os.path.exists("go"):
        time.sleep(0.01)
world.barrier()
"""


@pytest.fixture
def ps(tmp_path, monkeypatch, capsys):
    """`ps()` is what the command prints of jobs in this test's folder, and maybe of others."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    def ps():
        code, out, _ = outcome(capsys, "ps")
        assert code == 0
        return out

    return ps


def matching(ps, pattern, seconds=20):
    """Ask until the answer is such."""
    until = time.monotonic() + seconds
    while not re.search(pattern, text := ps()) and time.monotonic() < until:
        time.sleep(0.05)
    assert re.search(pattern, text), text
    return text


def test_what_each_rank_is_doing(launch, ps):
    job = launch(SCRIPT, "argument", variables={"XDG_RUNTIME_DIR": ""})
    job.number("early")
    text = matching(ps, r"rank 0 +pid \d+ +has not joined a world\n")
    assert f"pid {job.process.pid}  ringlet run -n 2 script.py argument\n" in text
    assert "2 ranks, for 0:00:" in text
    (job.folder / "join").touch()
    pids = [job.number(f"pid-{rank}") for rank in range(2)]
    text = matching(ps, r"rank 0 .*barrier #1 .*in flight, begun .* s ago, waits for rank 1\n")
    assert re.search(rf"rank 1 +pid {pids[1]} +all_reduce #0 of .*: done in .* ago\n", text)
    os.kill(pids[1], signal.SIGSTOP)
    matching(ps, rf"rank 1 +pid {pids[1]} +does not answer \(stopped by a signal\)\n")
    os.kill(pids[1], signal.SIGCONT)
    (job.folder / "go").touch()
    assert job.end()[0] == 0
    assert f"pid {job.process.pid} " not in ps()


def test_entries_of_launchers_that_are_gone_are_removed(launch, ps, tmp_path):
    folder = tmp_path / "t" / f"ringlet-run-{os.getuid()}"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:  # as after a power failure
        left.bind(str(folder / "5000000.sock"))  # more than any process has
    ps()
    assert not folder.exists()
    job = launch(SCRIPT, variables={"XDG_RUNTIME_DIR": ""})
    job.number("early")
    assert f"pid {job.process.pid} " in ps()
    job.process.kill()  # its warden removes what it has left
    job.process.wait()
    matching(ps, rf"\A(?!(.|\n)*pid {job.process.pid} )")


def test_no_jobs(ps, monkeypatch):
    monkeypatch.setattr("ringlet.launcher.commands.ps.entries", list)
    assert ps() == "no job of yours runs on this host\n"


@pytest.mark.slow
def test_jobs_with_another_folder_for_temporary_files_are_found(launch, ps, tmp_path, monkeypatch):
    """Several, one of them listed in $XDG_RUNTIME_DIR, one stopped."""
    (tmp_path / "runtime").mkdir(mode=0o700)
    places = ["", str(tmp_path / "runtime"), str(tmp_path / "none")]
    jobs = [launch(SCRIPT, variables={"XDG_RUNTIME_DIR": place}) for place in places]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for job in jobs:
        matching(ps, f"pid {job.process.pid}  ringlet run")
    jobs[2].process.send_signal(signal.SIGSTOP)
    text = ps()
    assert f"pid {jobs[1].process.pid}  ringlet run" in text
    assert f"pid {jobs[2].process.pid} does not answer (stopped by a signal)\n" in text
    jobs[2].process.send_signal(signal.SIGCONT)
    for job in jobs:
        job.process.send_signal(signal.SIGTERM)
        assert job.ended_within(5)


def test_an_answer_longer_than_a_sockets_buffer(launch, ps):
    job = launch(SCRIPT, *["x" * 100_000] * 9, variables={"XDG_RUNTIME_DIR": ""})
    matching(ps, rf"pid {job.process.pid}  ringlet run -n 2 script.py x{{100000}} ")
    job.process.send_signal(signal.SIGTERM)
    assert job.ended_within(5)


def asked(path, times):
    """So many ask, and go away or stop before they have an answer."""
    connections = []
    for _ in range(times):
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # the queue is full
            connection.connect(str(path))
        connections.append(connection)
    return connections


def test_neither_stopped_ranks_nor_who_asks_hold_the_launcher_up(launch, ps):
    job = launch(SCRIPT, variables={"XDG_RUNTIME_DIR": ""})
    job.number("early")
    (job.folder / "join").touch()
    pids = [job.number(f"pid-{rank}") for rank in range(2)]
    os.kill(pids[0], signal.SIGSTOP)
    (path,) = job.temporary_files("ringlet-run-*/*.sock")
    connections = asked(path, 1000)
    matching(ps, rf"rank 0 +pid {pids[0]} +does not answer \(stopped")
    job.process.send_signal(signal.SIGTERM)
    assert job.gone(pids[1:])  # the signal has come
    job.process.send_signal(signal.SIGTERM)
    assert job.ended_within(5)
    for connection in connections:
        connection.close()


def test_a_launcher_that_cannot_answer_now_stays_listed(launch, ps):
    job = launch(SCRIPT, variables={"XDG_RUNTIME_DIR": ""})
    job.number("early")
    (path,) = job.temporary_files("ringlet-run-*/*.sock")
    job.process.send_signal(signal.SIGSTOP)
    connections = asked(path, 200)  # until the queue is full
    assert f"pid {job.process.pid} does not answer (stopped by a signal)\n" in ps()
    for connection in connections:
        connection.close()
    job.process.send_signal(signal.SIGCONT)
    matching(ps, rf"pid {job.process.pid}  ringlet run")
    job.process.send_signal(signal.SIGTERM)
    assert job.ended_within(5)


def test_a_folder_that_others_may_enter_is_not_used(launch, ps, tmp_path):
    (tmp_path / "t" / f"ringlet-run-{os.getuid()}").mkdir(mode=0o755)
    job = launch("print('ran')", variables={"XDG_RUNTIME_DIR": ""})
    code, out, err = job.end()
    assert code == 0
    assert out.count("ran") == 2
    assert "`ringlet ps` will not show this job" in err
    assert "mode 0700" in err
    (tmp_path / "t" / f"ringlet-run-{os.getuid()}").rmdir()


def test_a_job_that_is_not_listed_waits_as_idly(launch, tmp_path):
    folder = tmp_path / "t" / f"ringlet-run-{os.getuid()}"
    folder.mkdir(mode=0o755)
    job = launch(SCRIPT, variables={"XDG_RUNTIME_DIR": ""})
    job.number("early")
    stat = Path(f"/proc/{job.process.pid}/stat")

    def seconds():
        words = stat.read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    before = seconds()
    time.sleep(1.0)
    assert seconds() - before < 0.2
    folder.rmdir()
