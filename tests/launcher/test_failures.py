"""How failing scripts end `ringlet run`: exit codes, and what is shown of whom."""

import re
import signal
import socket

import pytest

from ringlet.launcher.errors import ExitCode

HOST = socket.gethostname()
EXITED = r"ringlet: rank {} failed: process \d+ on host {} exited with code {}\n"


def exited(rank, code):
    return EXITED.format(rank, re.escape(HOST), code)


EXITS = {
    "0": ("print('fine')", 0, ""),
    "sys.exit(0)": ("import sys; sys.exit(0)", 0, ""),
    "its own": ("import sys; sys.exit(5)", 5, exited(0, 5)),
    "text": ("import sys; sys.exit('enough')", 1, "enough\n" + exited(0, 1)),
    "os._exit": ("import os; os._exit(9)", 9, exited(0, 9)),
    "syntax": (
        "1 +",
        1,
        exited(0, 1) + r'  File "/.*/script.py", line 1\n    1 \+\n +\^\nSyntaxError: .*\n',
    ),
    "no such module": ("import nosuch", 1, None),
}


@pytest.mark.parametrize("case", EXITS)
def test_the_exit_code_is_the_scripts_own(launch, case):
    text, expected, pattern = EXITS[case]
    code, _, stderr = launch(text, options=("-n", "1")).end()
    assert code == expected, stderr
    if pattern is not None:
        assert re.fullmatch(pattern, stderr), stderr


STUMBLE = """
    import sys
    from ringlet import comm

    def stumble():
        raise ValueError("over the step")

    world = comm.init()
    world.barrier()
    print("before", file=sys.stderr)
    if world.rank == 1:
        stumble()
    world.barrier()
"""

TRACEBACK = """Traceback (most recent call last):
  File "{script}", line 11, in <module>
    stumble()
  File "{script}", line 5, in stumble
    raise ValueError("over the step")
ValueError: over the step
"""


def test_the_first_failure_is_shown_last_and_whole_and_echoes_as_one_line(launch):
    running = launch(STUMBLE.lstrip("\n"), options=("-n", "3"))
    code, _, stderr = running.end()
    assert code == 1
    assert stderr.count("Traceback") == 1
    shown = TRACEBACK.format(script=running.folder / "script.py")  # as Python shows it
    end = re.search(exited(1, 1) + re.escape(shown) + r"\Z", stderr)
    assert end, stderr
    before = stderr[: end.start()].splitlines()
    echoes = sorted(line for line in before if "before" not in line)
    assert len(echoes) == 2
    for rank, echo in zip((0, 2), echoes, strict=True):
        assert re.match(rf"{re.escape(HOST)}:{rank}: \S*PeerLost: .*rank 1", echo)


def test_a_single_workers_traceback_is_the_scripts_alone(launch):
    text = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('b') from error"
    code, _, stderr = launch(text, options=("-n", "1")).end()
    assert code == 1
    assert "launcher" not in stderr
    assert "runpy" not in stderr
    assert "direct cause" in stderr
    assert stderr.endswith("KeyError: 'b'\n")


def test_a_failure_longer_than_a_pipe_is_shown_whole(launch):
    text = "raise ValueError('long ' + 'x' * 1_000_000)"
    code, _, stderr = launch(text, options=("-n", "1")).end()
    assert code == 1
    assert stderr.endswith("ValueError: long " + "x" * 1_000_000 + "\n")


KILLED = """
    import os, signal, time
    from pathlib import Path
    from ringlet import comm

    world = comm.init()
    Path(f"pid{world.rank}").write_text(f"{os.getpid()}\\n")
    if world.rank == 2:  # does not talk, and does not listen
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        world.barrier()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if world.rank == 2:
            time.sleep(60)
        world.barrier()
    except comm.PeerLost as error:
        print(error, flush=True)
        raise
"""


def test_a_killed_worker_is_announced_and_all_end(launch):
    running = launch(KILLED, options=("-n", "3"))
    code, stdout, stderr = running.end()  # within its deadline, which is half of rank 2's sleep
    assert code == 128 + signal.SIGKILL
    reason = f"process {running.number('pid1')} on host {HOST} was killed by signal 9 (SIGKILL)"
    text = stdout.removeprefix(f"{HOST}:0: ")
    assert text.startswith("rank 0: barrier")
    assert reason in text
    lines = stderr.splitlines()
    assert lines[-1] == f"ringlet: rank 1 failed: {reason}"
    assert "Traceback" not in stderr


def test_a_rank_killed_before_the_others_have_joined_is_announced(launch):
    text = """
        import os, signal
        from pathlib import Path
        from ringlet import comm
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGSEGV)
        comm.init()
    """
    code, _, stderr = launch(text).end()
    assert code == 128 + signal.SIGSEGV
    lines = stderr.splitlines()
    assert lines[-1].endswith("was killed by signal 11 (SIGSEGV)")
    assert any(line.startswith(f"{HOST}:0: ") and "PeerLost" in line for line in lines)


EARLY = """
    import os, sys, time
    if os.environ["RANK"] == "1":
        sys.exit(int(sys.argv[1]))
    from ringlet import comm
    comm.init().barrier()
"""


@pytest.mark.parametrize("code", [0, ExitCode.STOPPED])
def test_a_rank_that_ends_well_before_the_meeting_is_not_waited_for(launch, code):
    """And not until --timeout, 300 s."""
    code, _, stderr = launch(EARLY, str(int(code))).end()
    assert code == 1
    assert re.search(r"PeerLost: rank 0: rendezvous lost rank 1: process \d+ on host", stderr)


def test_a_rank_that_ends_well_stops_nobody_who_does_not_wait_for_it(launch):
    text = """
        import os, time
        if os.environ["RANK"] == "0":
            time.sleep(0.6)  # until the launcher has told it
            print("done")
    """
    code, stdout, stderr = launch(text).end()
    assert (code, stderr) == (0, "")
    assert "done" in stdout
