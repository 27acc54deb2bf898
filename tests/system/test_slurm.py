"""A real Slurm of two hosts: tasks that find each other; jobs that are stopped or lose a host, and
go on with the same bits."""

import os
import signal
import sys

import pytest
from processes import ranks
from slurm_cluster import RINGLET, Run, missing, slurm_cluster
from small_runs import newest_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm here: {missing()}"),
]

PYTHON = sys.executable
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
    "of two shapes": (
        ("-w", "n1", "-n1", PYTHON, "script.py", ":", "-w", "n2", "-n2"), (PYTHON,),
        ["n1", "n2", "n2"],
    ),
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


def submitted(cluster, name, *more):
    """The training, with `more` options."""
    return Run(cluster, name, (*TRAIN, *more))


@pytest.fixture(scope="module")
def reference(cluster):
    """The weights of a run that nothing has disturbed."""
    run = submitted(cluster, "whole")
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
    run = submitted(cluster, "stopped")
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
    run = submitted(cluster, node)
    run.wait_for(lambda: run.saved(2))
    cluster.fail(node)
    run.wait_for(run.queued_again)
    assert not run.saved(STEPS)
    cluster.begin(node)
    run.begin_again()
    run.wait_for(lambda: run.state() == "COMPLETED")
    assert same(run, reference)


def test_a_rank_that_is_killed_starts_again_in_place(cluster, reference):
    run = submitted(cluster, "rank", "--max-restarts", "1")
    run.wait_for(lambda: run.saved(2))
    os.kill(ranks(run.out)[1], signal.SIGKILL)
    run.wait_for(lambda: run.state() == "COMPLETED")
    assert "restart 1 of at most 1" in run.log.read_text()
    assert same(run, reference)


def test_a_cancelled_run_stays_so(cluster):
    run = submitted(cluster, "cancelled")
    run.wait_for(lambda: run.saved(2))
    cluster.call("scancel", run.job)
    run.wait_for(lambda: not cluster.call("squeue", "-h", "-j", run.job).stdout.strip())
    assert run.state() == "CANCELLED"
