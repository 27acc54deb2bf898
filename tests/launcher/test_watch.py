"""`ringlet watch`: what it reads, what it shows in the terminal, and when it ends."""

import errno
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from commands import outcome
from waiting import until

from ringlet.launcher.commands.ps import entries
from ringlet.launcher.commands.watch.curve import MOST, Curve
from ringlet.launcher.commands.watch.follow import Follower
from ringlet.launcher.commands.watch.ranks import Rank, waiting
from ringlet.launcher.commands.watch.terminal import frame
from ringlet.launcher.commands.watch.watched import View, Watched
from ringlet.launcher.supervisor.listing import pid_of

RINGLET = [sys.executable, "-P", "-c", "from ringlet.launcher.cli import main; main()"]

ALONE = """
import os, time
from ringlet import comm
world = comm.init()
open(f"joined-{world.rank}", "w").write(f"{os.getpid()}\\n")
if world.rank == 1:
    while not os.path.exists("go"):
        time.sleep(0.01)
world.barrier(label="\\x1b[2J")
"""


@pytest.fixture(autouse=True)
def as_important_as_before(monkeypatch):
    """These tests' process would stay at the lowest priority."""
    monkeypatch.setattr("os.nice", lambda by: 0)


def a_row(step, **more):
    return {"step": step, "loss": 5.0 / (step + 1), "tokens_per_s": 1000.0, "elapsed_s": 0.1 * step,
            "step_s": 0.1, "comm_s": 0.025, **more}  # fmt: skip


def write(folder, rows, end="\n"):
    """A run's folder with these rows; one that is a text is written as it is."""
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + end)
    return folder


def test_a_curve_stays_small_and_keeps_its_peaks():
    curve = Curve()
    for step in range(20_000):
        curve.add(step, 9.0 if step == 12_345 else 1.0)
    points = curve.points()
    assert MOST // 2 <= len(points) <= MOST
    assert [point.step for point in points] == sorted(point.step for point in points)
    assert points[-1].step == 19_999
    (peak,) = (point for point in points if point.most == 9.0)
    assert peak.least == 1.0 < peak.mean < 9.0


def test_steps_that_are_taken_again_replace_the_earlier_ones():
    curve = Curve()
    for step, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0)):
        curve.add(step, value)
    assert [(point.step, point.mean) for point in curve.points()] == [(1, 1.0), (2, 20.0)]


LEFT_OUT = ('{"step": 2, "loss": NaN', '{"loss": 7.0}', "[1, 2]", "", "\0" * 9, '{"step": "9"}',
            '{"step": true, "loss": 9}', "[" * 100_000, '{"step": 1e999}')  # fmt: skip


def test_rows_that_are_none_are_passed_over(tmp_path):
    folder = write(tmp_path / "run", [a_row(1), *LEFT_OUT, a_row(3, loss=float("nan"))])
    read = Follower(folder).look()
    assert [point.step for point in read.loss] == [1]
    assert read.step == 3
    assert not read.behind
    assert math.isnan(read.row["loss"])  # and not that of step 1


def test_a_file_is_followed_through_all_that_happens_to_it(tmp_path):
    folder = write(tmp_path / "run", [a_row(1), a_row(2), '{"step": 3, "lo'], end="")
    follower, path = Follower(folder), folder / "metrics.jsonl"

    def steps():
        return [point.step for point in follower.look().loss]

    assert steps() == [1, 2]
    with path.open("a") as file:
        file.write('ss": 1.0}\n')
    assert steps() == [1, 2, 3]  # the other half of the row has come
    os.truncate(path, len(json.dumps(a_row(1))) + 1)  # a run that resumes after step 1
    assert steps() == [1]
    path.rename(folder / "old")
    assert steps() == []
    write(folder, [a_row(7), a_row(8)])
    assert steps() == [7, 8]
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in follower.look().problem


def test_a_long_file_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("ringlet.launcher.commands.watch.follow.CHUNK", 1000)
    folder = write(tmp_path / "run", [a_row(step) for step in range(100)])
    follower, looks = Follower(folder), 1
    while (read := follower.look()).behind:
        looks += 1
    assert looks > 1
    assert read.step == 99
    assert read.loss[-1].step == 99


def rank(number, awaits=None, state="computes"):
    return Rank(number, 100 + number, state if awaits is None else "waits", awaits, "")


CHAINS = {
    "nobody waits": ([rank(0), rank(1)], []),
    "one": ([rank(0, 1), rank(1)], ["rank 0 waits for rank 1, which computes"]),
    "a chain": (
        [rank(0, 1), rank(1, 2), rank(2, state="communicates")],
        ["ranks 0 and 1 wait for rank 2, which communicates"],
    ),
    "two": (
        [rank(0, 1), rank(1), rank(2, 3), rank(3)],
        ["rank 0 waits for rank 1, which computes", "rank 2 waits for rank 3, which computes"],
    ),
    "a circle": ([rank(0, 1), rank(1, 0), rank(2)], ["ranks 0 and 1 wait for each other"]),
    "one behind a circle": (
        [rank(0, 1), rank(1, 0), rank(2, 0)],
        ["ranks 0 and 1 wait for each other"],
    ),
    "one that is not here": (
        [rank(0, 5)],
        ["rank 0 waits for rank 5, which is on another host, or has ended"],
    ),
    "one that is stopped": (
        [rank(0, 1), rank(1, state="does not answer")._replace(doing="stopped by a signal")],
        ["rank 0 waits for rank 1, which does not answer (stopped by a signal)"],
    ),
    "many": (
        [*(rank(number, 20) for number in range(20)), rank(20)],
        ["ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 others wait for rank 20, which computes"],
    ),
}


@pytest.mark.parametrize("case", CHAINS)
def test_who_waits_for_whom(case):
    ranks, lines = CHAINS[case]
    assert waiting(ranks) == lines


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize(("width", "height"), [(120, 50), (80, 24), (38, 12), (20, 3)])
def test_a_frame_fits_on_the_terminal(tmp_path, width, height, unicode):
    rows = [a_row(step, **({} if step % 9 else {"val_loss": 2.0})) for step in range(40)]
    read = replace(Follower(write(tmp_path / "run", rows)).look(), steps=100)
    ranks = tuple(rank(number, 1 if number % 2 else None) for number in range(30))
    view = View("run", "", "running", "step 39", read, (("loss", "2.0"),), ranks,
                ("rank 1 waits",), (), False)  # fmt: skip
    text = re.sub(r"\x1b\[[\d;]*m", "", frame(view, width, height, unicode))
    lines = text.splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert unicode or text.isascii()
    assert any("step 0" in line and "step 39" in line for line in lines) == (height > 20)


def test_a_run_that_is_over(tmp_path, capsys):
    folder = write(tmp_path / "run", [a_row(0, val_loss=5.0), a_row(1), a_row(2), '{"step": 3'], "")
    code, out, _ = outcome(capsys, "watch", str(folder))
    assert code == 0
    assert out == (
        f"watching {folder}\n"
        "ended after step 2, loss 1.6667, validation 5.0000 after step 0, "
        "speed 1,000 tokens/s\n"
    )


def test_a_run_on_another_host_is_followed_until_its_last_row(tmp_path, monkeypatch):
    folder = write(tmp_path / "run", [a_row(1)])
    (folder / ".lock").write_text("pid 1 on another.example")
    read = Follower(folder).look()
    assert (read.pid, read.host) == (None, "another.example")


ENDS = {
    "done": ({"how": "done"}, "done after step 2"),
    "stopped": ({"how": "stopped"}, "stopped after step 2 of 9, and saved: --resume goes on"),
    "failed": (
        {"how": "failed", "cause": "rank 1 failed: killed\x1b[2J"},
        "failed after step 2 of 9: rank 1 failed: killed\\x1b[2J",
    ),
    "killed with its launcher": ({}, "ended after step 2 of 9, since its launcher was killed"),
    "nonsense": ({"how": 7}, "ended after step 2 of 9, since its launcher was killed"),
}


@pytest.mark.parametrize("case", ENDS)
def test_how_a_run_ended(tmp_path, capsys, case):
    end, says = ENDS[case]
    folder = write(tmp_path / "run", [a_row(1), a_row(2)])
    (folder / "run.json").write_text('{"config": {"steps": 9}}')
    (folder / "end.json").write_text(json.dumps(end))
    code, out, _ = outcome(capsys, "watch", str(folder))
    assert code == 0
    assert f"\n{says}, loss 1.6667, speed 1,000 tokens/s," in out


def test_a_disk_that_does_not_answer_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr("ringlet.launcher.commands.watch.watched.SLOW_S", 0.05)
    folder, answers = write(tmp_path / "run", [a_row(1)]), threading.Event()
    read = Follower.look

    def slow(self):
        answers.wait()
        return read(self)

    monkeypatch.setattr(Follower, "look", slow)
    with Watched(str(folder)) as watched:
        assert until(lambda: "the folder has not been readable for 0:00" in watched.look().notes)
        assert watched.look().state == "reading"
        answers.set()
        assert until(lambda: watched.look().over)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "there is no such folder"),
        (lambda path: path.write_text(""), "is no folder of a run"),
        (lambda path: path.mkdir(), "is not the folder of a run"),
        (lambda path: (path / "checkpoints").mkdir(parents=True), "no run is writing there"),
        (lambda path: (path / "metrics.jsonl").mkdir(parents=True), "is no file"),
    ],
)  # fmt: skip
def test_what_is_no_run(tmp_path, capsys, make, says):
    make(tmp_path / "nothing")
    code, _, err = outcome(capsys, "watch", str(tmp_path / "nothing"))
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def refused(address):
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_ports_that_cannot_be_had(tmp_path, capsys, monkeypatch):
    folder = write(tmp_path / "run", [a_row(1)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = outcome(capsys, "watch", str(folder), "--http", port)
    assert (code, err.count("\n")) == (2, 1)
    assert f"--http {port}: another program listens there" in err
    monkeypatch.setattr("socket.create_server", refused)
    code, _, err = outcome(capsys, "watch", str(folder), "--http", "80")
    assert (code, err.count("\n")) == (2, 1)
    assert "--http 80: it is for root alone" in err
    monkeypatch.setattr("ringlet.launcher.commands.watch.command.find_spec", lambda name: None)
    code, _, err = outcome(capsys, "watch", str(folder), "--http", "0")
    assert code == 2
    assert "pip install 'ringlet[watch]'" in err


def test_a_job_is_watched_until_its_end_and_not_disturbed(launch, capsys):
    job = launch(ALONE, variables={"XDG_RUNTIME_DIR": ""})
    job.number("joined-0")
    output = job.folder / "output"
    with output.open("w") as file:
        command = [*RINGLET, "watch", str(job.process.pid)]
        watch = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        assert until(lambda: "rank 0 waits for rank 1" in output.read_text())
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 128 + signal.SIGINT
    finally:
        watch.kill()
        watch.wait()
    text = output.read_text()
    assert "\x1b" not in text
    assert "Traceback" not in text
    assert job.process.poll() is None
    threading.Timer(0.5, (job.folder / "go").touch).start()
    code, out, _ = outcome(capsys, "watch", str(job.process.pid))
    assert code == 0
    assert "rank 0 waits for rank 1, which computes" in out
    assert out.endswith("it has ended\n")
    assert job.end()[0] == 0


@pytest.mark.slow
def test_a_training_from_its_first_second_to_its_end(tmp_path):
    train = ["train", "--preset", "tiny", "--steps", "400", "--sample", "0", "--out", "run"]
    run = subprocess.Popen([*RINGLET, *train], cwd=tmp_path, stdout=subprocess.DEVNULL)
    watches = []
    try:
        assert until(lambda: [path for path in entries() if pid_of(path) == run.pid])
        for target in ("run", str(run.pid)):
            command = [*RINGLET, "watch", target]
            pipe = subprocess.PIPE
            watches.append(subprocess.Popen(command, cwd=tmp_path, stdout=pipe, text=True))
        assert run.wait(60) == 0
        for watch, name in zip(watches, ("run", tmp_path / "run"), strict=True):
            out, _ = watch.communicate(timeout=30)
            assert watch.returncode == 0
            assert out.startswith(f"watching {name} (ringlet train ")
            assert "\ndone after step 400, loss " in out
    finally:
        for process in (run, *watches):
            process.kill()
            process.wait()
