"""A real Slurm of two hosts: tasks that find each other; jobs that are stopped or lose a host, and
go on with the same bits."""

import os
import signal
import sys
from pathlib import Path

import pytest
from slurm_cluster import missing, slurm_cluster
from small_runs import newest_weights
from waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm here: {missing()}"),
]

PYTHON = sys.executable
RINGLET = (PYTHON, "-m", "ringlet")
SCRIPT = """
import os
import numpy as np
from ringlet import comm
world = comm.init(timeout=60)
total = world.all_reduce(np.ones(1 << 12))[0]
where = os.environ["SLURMD_NODENAME"]
os.write(1, f"here {world.rank} {world.size} {total} {where}\\n".encode())
comm.shutdown()
"""
STEPS = 60
TRAIN = ("train", "-n", "1", "--preset", "tiny", "--data", "text.txt", "--steps", str(STEPS),
         "--checkpoint-every", "1", "--transport", "tcp", "--sample", "0")  # fmt: skip
WAIT_S = 120


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "script.py").write_text(SCRIPT)
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 500)
    with slurm_cluster(folder) as found, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("RINGLET_")]:
            found.environment.pop(name, None)
        key = found.call(*RINGLET, "key", "new", "--out", "job.key")
        assert key.returncode == 0, key.stderr
        yield found


@pytest.fixture
def keyed(cluster, monkeypatch):
    monkeypatch.setitem(cluster.environment, "RINGLET_KEY_FILE", "job.key")
    return cluster


STEPS_OF_SLURM = {
    "ranks on both hosts": (("-N2", "-n3"), (PYTHON,), ["n1", "n1", "n2"]),
    "in turns": (("-N2", "-n4", "--distribution=cyclic"), (PYTHON,), ["n1", "n2"] * 2),
    "with PMI": (("-N2", "-n2", "--mpi=pmi2"), (PYTHON,), ["n1", "n2"]),
    "on one host": (("-N1", "-n2", "-w", "n2"), (PYTHON,), ["n2", "n2"]),
    "tasks of ringlet run": (("-N2", "-n3"), (*RINGLET, "run"), ["n1", "n1", "n2"]),
    "tasks in turns": (("-N2", "-n4", "-m", "cyclic"), (*RINGLET, "run"), ["n1", "n2"] * 2),
    "tasks on one host": (("-N1", "-n2"), (*RINGLET, "run"), ["n1", "n1"]),
    "agents with workers": (
        ("-N2", "--ntasks-per-node=1"), (*RINGLET, "run", "-n", "2"), ["n1", "n1", "n2", "n2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STEPS_OF_SLURM)
def test_the_tasks_of_a_step_are_one_world(case, keyed):
    options, program, hosts = STEPS_OF_SLURM[case]
    size = len(hosts)
    done = keyed.call("srun", "--overcommit", *options, *program, "script.py")
    lines = [line.partition("here ")[2] for line in done.stdout.splitlines()]
    expected = [f"{rank} {size} {size}.0 {host}" for rank, host in enumerate(hosts)]
    assert (done.returncode, sorted(lines)) == (0, expected), done.stderr


def test_without_a_key_each_host_says_what_to_do(cluster):
    done = cluster.call("srun", "-N2", "-n2", *RINGLET, "run", "script.py")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("srun:")]
    assert len(lines) == 2
    assert all("`ringlet key new --out FILE`" in line for line in lines), lines


def test_a_batch_script_alone_is_told_so(cluster):
    command = f"{PYTHON} script.py"
    done = cluster.call("sbatch", "--wait", "-N2", "-n2", "-o", "alone.log", f"--wrap={command}")
    text = (cluster.folder.parent / "alone.log").read_text()
    assert done.returncode == 0, done.stderr
    assert "here 0 1 1.0 n1" in text
    assert "no task of Slurm's job, but a world of one: srun starts its 2 tasks" in text


def test_more_than_there_is_is_refused(cluster):
    done = cluster.call(*RINGLET, "submit", "--engine", "slurm", "--nodes", "3", "--", *TRAIN)
    assert done.returncode == 2
    assert "the job asks for 3 hosts. There is all*: 2 hosts of 4 cores" in done.stderr


class Run:
    """A training that has been submitted, with `more` options."""

    def __init__(self, cluster, name, *more):
        self.cluster, folder = cluster, cluster.folder.parent
        words = ("--nodes", "2", "--time", "1:00:00", "--cpus", "2", "--name", name)
        done = cluster.call(*RINGLET, "submit", "--engine", "slurm", *words, "--", *TRAIN, *more)
        assert done.returncode == 0, done.stderr
        self.job = done.stdout.split()[1].rstrip(":")
        self.out = folder / f"runs/{name}-{self.job}"
        self.log = folder / f"{name}-{self.job}.log"

    def saved(self, step):
        return (self.out / f"checkpoints/step-{step:06}").exists()

    def wait_for(self, what):
        assert until(what, WAIT_S), (self.state(), self.log.exists() and self.log.read_text())

    def state(self):
        return self.cluster.state(self.job)

    def queued_again(self):
        shown = self.cluster.call("scontrol", "show", "job", self.job).stdout
        return "Restarts=1" in shown and "JobState=PENDING" in shown

    def begin_again(self):
        """Slurm would wait for two minutes. A host starts no job in the second in which it has
        ended it."""
        update = ("scontrol", "update", f"JobId={self.job}", "StartTime=now+3")
        assert self.cluster.call(*update).returncode == 0
        self.wait_for(lambda: self.state() in ("RUNNING", "COMPLETED"))


@pytest.fixture(scope="module")
def reference(cluster):
    """The weights of a run that nothing has disturbed."""
    run = Run(cluster, "whole")
    run.wait_for(lambda: run.state() == "COMPLETED")
    return newest_weights(run.out)


def same(run, reference):
    weights = newest_weights(run.out)
    assert run.saved(STEPS)
    assert "resumed after step" in run.log.read_text()
    return all((weights[name] == reference[name]).all() for name in reference)


STOPS = {
    "its time is nearly up": lambda job: ("scancel", "--signal=USR2", f"{job}.0"),
    "it is queued again by hand": lambda job: ("scontrol", "requeue", job),
}


@pytest.mark.parametrize("why", STOPS)
def test_a_run_that_is_stopped_saves_and_goes_on_with_the_same_bits(why, cluster, reference):
    run = Run(cluster, "stopped")
    run.wait_for(lambda: run.saved(2))
    assert cluster.call(*STOPS[why](run.job)).returncode == 0
    run.wait_for(run.queued_again)
    assert not run.saved(STEPS)
    assert "stopped after step" in run.log.read_text()
    run.begin_again()
    run.wait_for(lambda: run.state() == "COMPLETED")
    assert same(run, reference)


@pytest.mark.parametrize("node", ["n2", "n1"])
def test_a_run_outlives_any_of_its_hosts(node, cluster, reference):
    run = Run(cluster, node)
    run.wait_for(lambda: run.saved(2))
    for pid in cluster.pids(node):
        os.kill(pid, signal.SIGKILL)
    run.wait_for(run.queued_again)
    assert not run.saved(STEPS)
    cluster.begin(node)
    run.begin_again()
    run.wait_for(lambda: run.state() == "COMPLETED")
    assert same(run, reference)


def test_a_rank_that_is_killed_starts_again_in_place(cluster, reference):
    run = Run(cluster, "rank", "--max-restarts", "1")
    run.wait_for(lambda: run.saved(2))
    worker = next(pid for pid in cluster.pids("n2") if b"train_worker" in words_of(pid))
    os.kill(worker, signal.SIGKILL)
    run.wait_for(lambda: run.state() == "COMPLETED")
    assert "restart 1 of at most 1" in run.log.read_text()
    assert same(run, reference)


def words_of(pid):
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_cancelled_run_stays_so(cluster):
    run = Run(cluster, "cancelled")
    run.wait_for(lambda: run.saved(2))
    cluster.call("scancel", run.job)
    run.wait_for(lambda: not cluster.call("squeue", "-h", "-j", run.job).stdout.strip())
    assert run.state() == "CANCELLED"
