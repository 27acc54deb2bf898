"""A Slurm of two hosts, n1 and n2, on this machine: each has its slurmd in a network and a UTS
namespace of its own, joined by a bridge, where a user's commands run as on a login host.

Needs root and the Debian packages slurmctld, slurmd, slurm-client and munge, but neither systemd
nor cgroups.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from waiting import alive, until

PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "munged", "ip", "nsenter", "unshare")
PORTS = (16818, 17003)
RINGLET = (sys.executable, "-m", "ringlet")
WAIT_S = 120

CONFIGURATION = """\
ClusterName=here
SlurmctldHost={host}({net}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MessageTimeout=30
NodeName=n1 NodeHostname=n1 NodeAddr={net}.11 Port={ports[1]} CPUs=4 RealMemory=2000
NodeName=n2 NodeHostname=n2 NodeAddr={net}.12 Port={ports[1]} CPUs=4 RealMemory=2000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    if os.getuid() != 0:
        return "needs root, for network namespaces"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    probe = subprocess.run(["ip", "netns", "add", "rlprobe"], capture_output=True, timeout=20)
    subprocess.run(["ip", "netns", "del", "rlprobe"], capture_output=True, timeout=20)
    return "" if probe.returncode == 0 else "cannot make network namespaces here"


def _run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


class Cluster:
    """The variables and the commands of the running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
        """A command of a user, on the controller's host."""
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True,
            **{"timeout": 120, **more},
        )  # fmt: skip

    def start(self, *words: str, **more: object) -> "subprocess.Popen[str]":
        """The same, without waiting for its end."""
        return subprocess.Popen(
            words, env=self.environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, **more,
        )  # fmt: skip

    def state(self, job: str) -> str:
        """Of a job: PENDING, RUNNING, COMPLETED, ..."""
        shown = self.call("scontrol", "--oneliner", "show", "job", job).stdout
        return shown.partition("JobState=")[2].partition(" ")[0]

    def pid_of(self, name: str) -> int:
        """Of slurmd-n1, slurmd-n2, slurmctld, munge."""
        return int((self.folder / f"{name}.pid").read_text())

    def begin(self, node: str) -> None:
        """Start a host's slurmd."""
        namespace = f"/var/run/netns/{self.name(node)}"
        _run("nsenter", f"--net={namespace}", "unshare", "--uts", "env",
             f"SLURM_CONF={self.environment['SLURM_CONF']}",
             "bash", "-c", f"hostname {node}; exec slurmd -N {node}")  # fmt: skip

    def pids(self, node: str) -> list[int]:
        """All processes of a host: its slurmd, and what jobs run there."""
        return [int(pid) for pid in _run("ip", "netns", "pids", self.name(node)).split()]

    def name(self, node: str) -> str:
        """Of the host's namespace; short, as names of interfaces are."""
        return f"rls{self.folder.name[-4:]}{node}"

    def fail(self, node: str) -> None:
        """End all of a host, as when it dies."""
        for pid in self.pids(node):
            os.kill(pid, 9)

    def end(self, name: str) -> None:
        """End a daemon, at first politely."""
        with contextlib.suppress(OSError, ValueError):
            pid = self.pid_of(name)
            os.kill(pid, 15)
            if not until(lambda: not alive(pid), 5):
                os.kill(pid, 9)


class Run:
    """A training on both hosts that has been submitted."""

    def __init__(self, cluster: Cluster, name: str, command: tuple[str, ...]) -> None:
        self.cluster, folder = cluster, cluster.folder.parent
        words = ("--nodes", "2", "--time", "1:00:00", "--cpus", "2", "--name", name)
        done = cluster.call(*RINGLET, "submit", "--engine", "slurm", *words, "--", *command)
        assert done.returncode == 0, done.stderr
        self.job = done.stdout.split()[1].rstrip(":")
        self.out = folder / f"runs/{name}-{self.job}"
        self.log = folder / f"{name}-{self.job}.log"

    def saved(self, step: int) -> bool:
        """Whether this step is saved."""
        return (self.out / f"checkpoints/step-{step:06}").exists()

    def wait_for(self, what: Callable[[], object]) -> None:
        """Wait until this is true."""
        assert until(what, WAIT_S), (self.state(), self.log.exists() and self.log.read_text())

    def state(self) -> str:
        """The job's."""
        return self.cluster.state(self.job)

    def queued_again(self) -> bool:
        """Whether it has been stopped, and waits for its next start."""
        shown = self.cluster.call("scontrol", "show", "job", self.job).stdout
        return "Restarts=1" in shown and "JobState=PENDING" in shown

    def begin_again(self) -> None:
        """Slurm would wait for two minutes. A host starts no job in the second in which it has
        ended it."""
        update = ("scontrol", "update", f"JobId={self.job}", "StartTime=now+3")
        assert self.cluster.call(*update).returncode == 0
        self.wait_for(lambda: self.state() in ("RUNNING", "COMPLETED"))


@contextlib.contextmanager
def slurm_cluster(base: Path) -> Iterator[Cluster]:
    """The cluster, while the block runs."""
    folder = base / f"c{secrets.token_hex(2)}"
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    net = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}"
    cluster, bridge = Cluster(folder), f"rlb{folder.name[-4:]}"
    host = _run("hostname", "-s").strip()
    facts = {"host": host, "net": net, "folder": folder, "ports": PORTS}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**facts))
    # Asked for, so that nothing need be mounted at /sys/fs/cgroup; it is not used.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    try:
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{net}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for number, node in enumerate(("n1", "n2"), start=11):
            space, port = cluster.name(node), f"rlv{folder.name[-4:]}{node}"
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", port, "master", bridge, "up")
            _run("ip", "-n", space, "addr", "add", f"{net}.{number}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")
            _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.sock",
             f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed",
             f"--log-file={folder}/munge.log")  # fmt: skip
        _run("env", f"SLURM_CONF={folder}/slurm.conf", "slurmctld")
        for node in ("n1", "n2"):
            cluster.begin(node)
        assert until(
            lambda: cluster.call("sinfo", "-h", "-o", "%T %D").stdout.strip() == "idle 2", 30
        ), cluster.call("sinfo").stdout
        yield cluster
    finally:
        cluster.call("scancel", "--user=root")
        until(lambda: not cluster.call("squeue", "-h").stdout.strip(), 15)
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munge"):
            cluster.end(name)
        for node in ("n1", "n2"):
            _run("ip", "netns", "del", cluster.name(node), check=False)
        _run("ip", "link", "del", bridge, check=False)
