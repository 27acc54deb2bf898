"""The circumstances in which a launcher is started, and who holds what it needs: signals that were
ignored or blocked, streams that are closed, full or not read, few descriptors, process 1."""

import os
import resource
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from quickly import mostly_slow

HOST = socket.gethostname()

ENDS = """
    import os, sys, time
    from pathlib import Path
    rank = os.environ["RANK"]
    os.write(1, b"loss \\xe2\\x86\\x93 caf\\xe9\\n")
    Path(f"pid{rank}").write_text(f"{os.getpid()}\\n")
    if sys.argv[1:] == ["wait"]:
        while not Path("go").exists():
            time.sleep(0.02)
    sys.exit(3 if rank == "1" else 0)
"""


def ignore(*numbers):
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def block(*numbers):
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def full(*descriptors):
    for descriptor in descriptors:
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)


def close(*descriptors):
    for descriptor in descriptors:
        os.close(descriptor)


FIXED = f"{HOST}:0: loss \u2193 caf\ufffd\n"
ESCAPED = f"{HOST}:0: loss \\u2193 caf\\xe9\n"

AT_THE_START = {
    "SIGCHLD ignored": (lambda: ignore(signal.SIGCHLD), {}, FIXED),
    "much ignored": (lambda: ignore(*{*signal.valid_signals()} - {9, 19, 32, 33}), {}, FIXED),
    "all blocked": (lambda: block(*signal.valid_signals()), {}, FIXED),
    "stdout closed": (lambda: close(1), {}, ""),
    "all closed": (lambda: close(0, 1, 2), {}, ""),
    "stdout full": (lambda: full(1), {}, ""),
    "both full": (lambda: full(1, 2), {}, ""),
    "stdout not to be waited for": (lambda: os.set_blocking(1, False), {}, FIXED),
    "latin-1": (None, {"PYTHONIOENCODING": "latin-1"}, ESCAPED),
    "stdin closed": (lambda: close(0), {}, FIXED),
    "stderr closed": (lambda: close(2), {}, FIXED),
    "stderr full": (lambda: full(2), {}, FIXED),
    "ASCII": (None, {"PYTHONIOENCODING": "ascii"}, f"{HOST}:0: loss \\u2193 caf\\ufffd\n"),
    "utf-16": (None, {"PYTHONIOENCODING": "utf-16-le"}, ""),
}


@pytest.mark.parametrize(
    "case", mostly_slow(AT_THE_START, "SIGCHLD ignored", "all blocked", "all closed", "both full")
)
def test_the_exit_code_is_the_jobs_own(launch, case):
    before, variables, stdout = AT_THE_START[case]
    job = launch(ENDS, before=before, variables=variables)
    job.process.stdout.reconfigure(errors="backslashreplace")
    code, out, err = job.end()
    assert code == 3, err
    assert stdout in out
    assert "Traceback" not in err
    if case == "stdout full":
        assert err.startswith("ringlet: output is lost: No space left on device\n")


@pytest.mark.parametrize(
    ("prepare", "number"),
    [
        (ignore, signal.SIGINT),
        (block, signal.SIGTERM),
        pytest.param(ignore, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(block, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_signals_that_were_ignored_or_blocked_end_the_job(launch, prepare, number):
    job = launch(ENDS, "wait", before=lambda: prepare(number))
    pids = [job.number(f"pid{rank}") for rank in range(2)]
    job.process.send_signal(number)
    assert job.ended_within(5)
    assert job.process.returncode == 128 + number
    assert job.gone(pids)


def test_nohup(launch):
    job = launch(ENDS, "wait", before=lambda: ignore(signal.SIGHUP))
    for rank in range(2):
        job.number(f"pid{rank}")
    job.process.send_signal(signal.SIGHUP)
    os.kill(job.number("pid0"), signal.SIGHUP)  # for workers, too
    (job.folder / "go").touch()
    assert job.end()[0] == 3


# -- nobody reads ---------------------------------------------------------------------------------

FLOOD = """
    import os, select, signal, sys, threading, time
    from pathlib import Path
    rank = os.environ["RANK"]

    def watch():
        free = time.monotonic()
        while time.monotonic() < free + 0.3:
            if select.select([], [1], [], 0)[1]:
                free = time.monotonic()
            time.sleep(0.01)
        Path(f"held{rank}").write_text(f"{os.getpid()}\\n")

    def save(number, frame):
        print("saving", "x" * 200_000, flush=True)
        Path(f"saved{rank}").write_text("1\\n")
        os._exit(75)

    if sys.argv[1] == "save":
        signal.signal(signal.SIGTERM, save)
    threading.Thread(target=watch, daemon=True).start()
    for number in range(int(sys.argv[2])):
        os.write(1, b"%06d" % number + b"y" * 93 + b"\\n")
"""

ENDLESS = str(1 << 60)


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_without_a_reader_the_launcher_can_be_stopped(launch, number):
    job = launch(FLOOD, "", ENDLESS)
    pids = [job.number(f"held{rank}") for rank in range(2)]
    job.process.send_signal(number)
    assert job.ended_within(5)
    assert job.process.returncode == 128 + number
    assert job.gone(pids)


SEVERAL = ("--hosts", "127.0.0.1:1,localhost:1", "--timeout", "20")


def test_without_a_reader_a_launcher_of_several_hosts_can_be_stopped(launch):
    job = launch(FLOOD, "", ENDLESS, options=SEVERAL)
    pids = [job.number(f"held{rank}") for rank in range(2)]
    job.process.send_signal(signal.SIGTERM)
    assert job.ended_within(15)
    assert job.process.returncode == 128 + signal.SIGTERM
    assert job.gone(pids)


@pytest.mark.slow
def test_agents_that_are_stopped_do_not_hold_up_the_end(launch):
    job = launch(FLOOD, "", ENDLESS, options=SEVERAL)
    pids = [job.number(f"held{rank}") for rank in range(2)]
    agents = [
        int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids
    ]
    for agent in agents:
        os.kill(agent, signal.SIGSTOP)
    job.process.send_signal(signal.SIGTERM)
    job.process.send_signal(signal.SIGINT)
    assert job.ended_within(10)
    assert job.process.returncode == 128 + signal.SIGKILL
    assert job.gone([*agents, *pids])


def test_without_a_reader_workers_can_save(launch):
    job = launch(FLOOD, "save", ENDLESS)
    for rank in range(2):
        job.number(f"held{rank}")
    job.process.send_signal(signal.SIGTERM)
    assert job.ended_within(5)
    assert job.process.returncode == 75
    assert [job.number(f"saved{rank}") for rank in range(2)] == [1, 1]


def test_a_reader_that_comes_late_gets_everything(launch):
    job = launch(FLOOD, "", "20000")
    for rank in range(2):
        job.number(f"held{rank}")
    code, out, err = job.end()
    assert (code, err) == (0, "")
    for rank in range(2):
        lines = [line for line in out.splitlines() if line.startswith(f"{HOST}:{rank}: ")]
        numbers = [int(line.rpartition(" ")[2].rstrip("y")) for line in lines]
        assert numbers == list(range(20_000))


def test_a_rank_that_fails_ends_a_job_whose_output_nobody_reads(launch):
    """The launcher itself waits for the reader, with nothing else left."""
    job = launch(FLOOD, "", ENDLESS)
    pids = [job.number(f"held{rank}") for rank in range(2)]
    os.kill(pids[0], signal.SIGKILL)
    assert job.gone(pids, 8)
    assert job.end()[0] == 128 + signal.SIGKILL


def test_output_into_a_named_pipe_that_nobody_reads(launch):
    job = launch("print(1)", options=("-n", "1", "--output", "."), before=_make_pipe)
    code, _, err = job.end()
    assert (code, err) == (2, "ringlet: cannot write rank-0.log: No such device or address\n")


def _make_pipe():
    os.mkfifo("rank-0.log")


def test_a_failure_in_letters_that_no_encoding_has(launch):
    code, _, err = launch("raise ValueError('caf\\udce9 \\ud800')", options=("-n", "1")).end()
    assert code == 1
    assert err.endswith("ValueError: caf\\udce9 \\ud800\n")
    assert err.count("Traceback") == 1


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("files", "workers"), [(12, "16"), (24, "16"), (64, "99999999")])
def test_too_few_descriptors_are_one_line(launch, files, workers):
    limits = files, files
    job = launch(
        ENDS,
        options=("-n", workers),
        before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
    )
    code, out, err = job.end()
    assert (code, out) == (2, "")
    assert "Too many open files" in err
    assert "Traceback" not in err


ORPHAN = """
    import os, subprocess, time
    from pathlib import Path
    assert os.getppid() == 1
    subprocess.run(["sh", "-c", "sleep 0 & echo $! > orphan"])
    pid = int(Path("orphan").read_text())
    until = time.monotonic() + 10
    while time.monotonic() < until and Path(f"/proc/{pid}").exists():
        time.sleep(0.02)
    print("reaped", not Path(f"/proc/{pid}").exists())
"""


def test_process_1_collects_what_others_leave_to_it(launch):
    around = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*around, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare --pid, which needs root")
    code, out, err = launch(ORPHAN, options=("-n", "1"), around=around).end()
    assert (code, out, err) == (0, "reaped True\n", "")
