"""`ringlet run` as an engine starts it, several times at once: each task has its part of one job.
The variables stand in for the engine; tests/system/test_slurm.py has a real one."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import os
import numpy as np
from ringlet import comm
world = comm.init(timeout=20)
total = world.all_reduce(np.ones(3))[0]
local = [os.environ[name] for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE")]
print("here", world.rank, world.size, total, *local)
"""

STEP = {
    "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "1",
}  # fmt: skip
ONE_HOST = {"SLURM_STEP_TASKS_PER_NODE": "2"}
TWO_HOSTS = {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "MASTER_ADDR": "127.0.0.1"}


def tasks(shape):
    """The variables of both tasks."""
    for task in "01":
        local, node = (task, "0") if shape is ONE_HOST else ("0", task)
        yield {**STEP, **shape, "SLURM_PROCID": task, "SLURM_LOCALID": local, "SLURM_NODEID": node}


def start(launch, shape, *options, text=SCRIPT):
    return [launch(text, options=options, variables=each) for each in tasks(shape)]


WORLDS = {
    "tasks on one host are ranks": (ONE_HOST, (), ["0 2 2.0 0 2", "1 2 2.0 1 2"]),
    "tasks on two hosts are ranks": (TWO_HOSTS, (), ["0 2 2.0 0 1", "1 2 2.0 0 1"]),
    "a task on each host starts workers": (
        TWO_HOSTS, ("-n", "2"),
        ["0 4 4.0 0 2", "1 4 4.0 1 2", "2 4 4.0 0 2", "3 4 4.0 1 2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WORLDS)
def test_tasks_are_one_world(case, launch):
    shape, options, lines = WORLDS[case]
    ends = [each.end() for each in start(launch, shape, *options)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    shown = "".join(out for _, out, _ in ends).splitlines()
    assert sorted(line.partition("here ")[2] for line in shown) == lines


def test_they_end_alike(launch):
    text = "import os, sys; sys.exit(3 if os.environ['RANK'] == '1' else 0)"
    ends = [each.end() for each in start(launch, ONE_HOST, text=text)]
    assert [code for code, _, _ in ends] == [3, 3], ends


def test_a_rank_may_start_a_job_of_its_own(launch):
    text = """
    import subprocess, sys
    program = [sys.executable, "-m", "ringlet", "run", "-n", "1", "-m", "platform"]
    sys.exit(subprocess.run(program).returncode)
    """
    ends = [each.end() for each in start(launch, ONE_HOST, text=text)]
    assert [code for code, _, _ in ends] == [0, 0], ends


WRONG = {
    "no number of tasks": ({"SLURM_STEP_NUM_TASKS": "many"}, "WORLD_SIZE is 'many'"),
    "a rank beyond them": ({"SLURM_PROCID": "7"}, "RANK is 7, but WORLD_SIZE is 2"),
    "no local number": ({"SLURM_LOCALID": "x"}, "task 'x' of 1 on this host"),
    "a port that is none": ({"MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    "no list of hosts": ({"MASTER_ADDR": "", "SLURM_STEP_NODELIST": "n["}, "'n[' is no list of"),
    "hosts that others reach": ({"MASTER_ADDR": "192.0.2.1"}, "is not an address of this host"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case, launch):
    changed, text = WRONG[case]
    code, _, shown = launch(SCRIPT, options=(), variables=next(tasks(TWO_HOSTS)) | changed).end()
    assert code == 2
    assert text in shown
    assert len(shown.splitlines()) == 1


def test_a_task_that_waits_for_the_others_can_be_stopped(launch):
    variables = next(tasks(ONE_HOST))
    alone = launch(SCRIPT, options=(), variables=variables)
    alone.temporary_files("ringlet.*/agents")
    alone.process.send_signal(signal.SIGINT)
    code, _, shown = alone.end()
    assert code in (130, -signal.SIGINT), shown


STOPPED_AT_ONCE = """
    import os, signal
    from ringlet.launcher.cli import main
    from ringlet.launcher.hosts import coordinator

    def stopped(*options):
        coordinator_of(*options)
        signal.raise_signal(signal.SIGINT)

    coordinator_of, coordinator.Coordinator = coordinator.Coordinator, stopped
    main(["run", "script.py"])
    """


def test_one_that_is_stopped_before_it_runs_leaves_nothing(tmp_path):
    variables = {**os.environ, **next(tasks(ONE_HOST)), "TMPDIR": str(tmp_path)}
    (tmp_path / "script.py").touch()
    words = [sys.executable, "-c", textwrap.dedent(STOPPED_AT_ONCE)]
    ended = subprocess.run(
        words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode in (130, -signal.SIGINT), ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
