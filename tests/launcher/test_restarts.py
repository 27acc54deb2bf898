"""Jobs that fail and go on: when they are started again, and with which result."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringlet.launcher.errors import ExitCode
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.launcher.supervisor.restarts import run_with_restarts

STEPS = 300

RINGLET = [sys.executable, "-c", "from ringlet.launcher.cli import main; main()"]


class Played:
    """Stands for a Supervisor whose runs end with these codes."""

    def __init__(self, codes, interrupted=False):
        self.codes, self.interrupted, self.generations = list(codes), interrupted, []

    def __call__(self, generation):
        self.generations.append(generation)
        return self

    def run(self):
        return self.codes.pop(0)


class Said(list):
    """Stands for a Screen."""

    say = list.append


def persist(played, restarts, begun, said):
    agent = Agent(1, WorkerOptions(max_restarts=restarts))
    return run_with_restarts(played, agent, lambda: begun, said)


PLAYS = {
    "no failure": ([0], 3, True, 0, 1, ""),
    "two failures": ([1, 137, 0], 3, True, 0, 3, "restart 2 of at most 3"),
    "too many": ([1, 1, 7], 2, True, 7, 3, "it has been restarted 2 times"),
    "not wanted": ([1], 0, True, 1, 1, ""),
    "before the first step": ([1], 3, False, 1, 1, "before its first step"),
    "preempted": ([75], 3, True, ExitCode.STOPPED, 1, ""),
}


@pytest.mark.parametrize("case", PLAYS)
def test_when_a_job_is_started_again(case):
    codes, restarts, begun, code, starts, text = PLAYS[case]
    played, said = Played(codes), Said()
    assert persist(played, restarts, begun, said) == code
    assert played.generations == list(range(starts))
    assert text in " ".join(said)
    assert bool(said) == bool(text)


SCRIPTS = {
    "after the ranks have met": (
        "world = comm.init()\nworld.barrier()\n",
        0,
        "restart 1 of at most 3",
    ),
    "at its first line": ("", 128 + signal.SIGKILL, "it failed before its first step"),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_a_script_is_started_again_if_its_ranks_have_met(case, launch):
    """Rank 1 is killed in the first start."""
    beginning, code, text = SCRIPTS[case]
    script = f"""import os
from ringlet import comm
{beginning}
starts = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["TORCHELASTIC_MAX_RESTARTS"]
print("start", *starts, os.environ["RINGLET_GENERATION"], flush=True)
if os.environ["RANK"] == "1" and starts[0] == "0":
    os.kill(os.getpid(), 9)
comm.init().barrier()
"""
    ended, out, err = launch(script, options=("-n", "2", "--max-restarts", "3")).end()
    assert (ended, f"ringlet: {text}" in err or f"not restarted: {text}" in err) == (code, True)
    assert ("start 1 3 1" in out) == (code == 0)


def test_an_interrupted_job_is_not_started_again():
    played = Played([130], interrupted=True)
    said = Said()
    assert persist(played, 3, True, said) == 130
    assert not said


def train(folder, *more):
    arguments = ["--preset", "tiny", "--steps", f"{STEPS}", "--checkpoint-every", "8"]
    arguments += ["--sample", "0"]
    folder.mkdir(parents=True)
    return subprocess.Popen(
        [*RINGLET, "train", "--out", "o", *arguments, *more],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def rows(folder):
    path = folder / "o/metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def children(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def bits(folder):
    shards = sorted((folder / f"o/checkpoints/step-{STEPS:06d}").glob("*.safetensors"))
    assert shards
    return [(shard.name, hashlib.sha256(shard.read_bytes()).hexdigest()) for shard in shards]


def killed(folder, goals, victims):
    """Train, with a worker killed each time that so many rows of metrics are there."""
    process = train(folder, "--max-restarts", str(len(goals)))
    until = time.monotonic() + 150
    try:
        for goal, victim in zip(goals, victims, strict=True):
            while rows(folder) < goal and process.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(int(children(process)[victim]), signal.SIGKILL)
            while "restart" not in (line := process.stderr.readline()) and line:
                pass
        return process.communicate(timeout=60)
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_training_that_is_killed_ten_times_ends_with_the_same_bits(tmp_path, seed):
    _, err = train(tmp_path / "alone").communicate(timeout=120)
    assert not err
    draw = random.Random(seed)
    goals = [4, *sorted(draw.sample(range(9, STEPS), 9))]  # the first before any checkpoint
    out, _ = killed(tmp_path / "killed", goals, draw.choices((0, 1), k=10))
    assert f"done after step {STEPS}" in out
    assert out.count("resumed after step") == 9
    assert bits(tmp_path / "killed") == bits(tmp_path / "alone")
    assert rows(tmp_path / "killed") == rows(tmp_path / "alone")  # no step is there twice


def test_notice_of_preemption_stops_a_training_that_can_be_resumed(tmp_path):
    process = train(tmp_path / "run", "--steps", "100000")
    try:
        until = time.monotonic() + 50
        while rows(tmp_path / "run") < 3 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR2)
        out, err = process.communicate(timeout=50)
    finally:
        process.kill()
    assert process.returncode == ExitCode.STOPPED, err
    assert "stopped after step" in out


def test_a_failure_is_recorded_with_what_each_rank_was_in(tmp_path):
    process = train(tmp_path / "run", "--steps", "100000", "--eval-windows", "32")
    try:
        until = time.monotonic() + 50
        while rows(tmp_path / "run") < 3 and time.monotonic() < until:
            time.sleep(0.02)
        about = json.loads((tmp_path / "run/o/run.json").read_text())
        assert not (tmp_path / "run/o/end.json").exists()
        os.kill(int(children(process)[1]), signal.SIGKILL)
        process.communicate(timeout=50)
    finally:
        process.kill()
    assert about["config"]["steps"] == 100000
    end = json.loads((tmp_path / "run/o/end.json").read_text())
    assert end["how"] == "failed"
    assert "was killed by signal 9" in end["cause"]
    killed, survivor = sorted(end["ranks"], key=lambda each: "SIGKILL" not in each["exit"])
    assert {killed["rank"], survivor["rank"]} == {0, 1}
    assert (killed["error"], killed["doing"]) == ("", "")
    assert "PeerLost" in survivor["error"]
    assert "its last operations" in survivor["error"]
