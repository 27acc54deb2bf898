"""Ranks on Ray: a real cluster of two nodes if Ray is installed, and a stand-in's answers."""

import json
import os
import signal
import subprocess
import sys
import types

import pytest
from commands import outcome
from ray_cluster import ray_cluster
from small_runs import newest_weights
from waiting import until

from ringlet.comm import CommTimeout, PeerLost
from ringlet.launcher.errors import UserError
from ringlet.launcher.ray import spawn
from ringlet.launcher.ray.training import Notices, TrainingWork

DEADLINE_S = 240

PROGRAM = """
import json, os, sys
from pathlib import Path
import numpy as np
from ringlet.comm import PeerLost
from ringlet.launcher.ray import spawn

class Stumble(Exception):
    pass

def place(world, scale):
    x = world.all_reduce(np.full(3, world.rank * scale, np.float32))
    names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "RINGLET_ADDRESS")
    return *(os.environ[name] for name in names), x

def stumble(world):
    if world.rank == 2:
        raise Stumble("over", 3)
    world.barrier()

def train(world, folder, dies):
    saved, start = folder / "saved.npy", os.environ["RINGLET_GENERATION"]
    x = np.load(saved) if saved.exists() else np.zeros(4)
    (folder / f"from-{start}-{world.rank}").write_text(str(x[0]))
    try:
        while x[0] < 6:
            x += world.all_reduce(np.array([0.25, 0.1, world.rank, 0.3]))
            if world.rank == 0:
                np.save(folder / "new.npy", x)
                os.replace(folder / "new.npy", saved)
            world.barrier()
            if dies and x[0] == 3 and world.rank == 3 and start == "0":
                os._exit(7)
    except PeerLost as error:
        (folder / f"lost-{world.rank}").write_text(str(error.rank))
        raise
    return x

if __name__ == "__main__":
    folder, out = Path(sys.argv[1]), {}
    out["places"] = [[*words, x.tolist()] for *words, x in spawn(place, 4, scale=2)]
    try:
        spawn(stumble, 4)
    except Stumble as error:
        out["error"] = [*error.args, *error.__notes__]
    for name in ("whole", "broken"):
        (folder / name).mkdir()
        results = spawn(train, 4, max_restarts=1, folder=folder / name, dies=name == "broken")
        out[name] = [x.tobytes().hex() for x in results]
    print(json.dumps(out))
"""

SCRIPT = """
import os, sys
from ringlet import comm
world, what = comm.init(), sys.argv[1]
print(what, "on", world.rank, flush=True)
if world.rank == 1:
    if what == "exit": sys.exit(9)
    if what == "raise": raise ValueError("over the step")
    if what == "kill": os._exit(3)
if what == "save": sys.exit(75)
world.barrier()
"""


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="needs Ray: pip install 'ringlet[ray]'")
    with ray_cluster(2) as found:
        yield found.address


def program(text, tmp_path, monkeypatch, cluster, *words):
    """How a script, given to these words, has ended."""
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    (tmp_path / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S
    )


@pytest.mark.slow
def test_functions_on_two_hosts(cluster, tmp_path, monkeypatch):
    done = program(PROGRAM, tmp_path, monkeypatch, cluster, "script.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.splitlines()[-1])
    assert [place[:3] for place in out["places"]] == [
        ["0", "2", "0"], ["1", "2", "0"], ["0", "2", "1"], ["1", "2", "1"]
    ]  # fmt: skip
    hosts = [place[3] for place in out["places"]]
    assert hosts[0] == hosts[1] != hosts[2] == hosts[3]
    assert all(place[4] == [12.0] * 3 for place in out["places"])

    what, number, note = out["error"]
    assert (what, number) == ("over", 3)
    assert "rank 2, on 127.0.0." in note
    assert "in stumble" in note

    assert out["broken"] == out["whole"]  # the bits
    files = {path.name: path.read_text() for path in (tmp_path / "broken").glob("*-*")}
    assert {files[f"lost-{rank}"] for rank in range(3)} == {"3"}
    assert {files[f"from-1-{rank}"] for rank in range(4)} == {"3.0"}
    assert "rank 3 on 127.0.0" in done.stderr
    assert "restart 1 of at most 1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code", "shown"),
    [("pass", 0, ""), ("exit", 9, "rank 1 has ended with exit code 9"), ("save", 75, ""),
     ("raise", 1, "ValueError: over the step"), ("kill", 76, "PeerLost: rank 1 on 127.0.0.")],
)  # fmt: skip
def test_scripts_on_two_hosts(what, code, shown, cluster, tmp_path, monkeypatch):
    words = ("-m", "ringlet", "run", "--engine", "ray", "-n", "4", "script.py", what)
    done = program(SCRIPT, tmp_path, monkeypatch, cluster, *words)
    assert (done.returncode, shown in done.stderr) == (code, True), done.stdout + done.stderr
    if what != "kill":
        assert all(f"{what} on {rank}" in done.stdout for rank in range(4))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all(number, cluster, launch):
    text = """
        import os, time
        from pathlib import Path
        from ringlet import comm
        Path(f"pid-{comm.init().rank}").write_text(f"{os.getpid()}\\n")
        time.sleep(1000)
    """
    options = ("--engine", "ray", "-n", "2")
    started = launch(text, options=options, variables={"RAY_ADDRESS": cluster})
    pids = [started.number(f"pid-{rank}") for rank in range(2)]
    started.process.send_signal(number)
    assert started.end()[0] == 128 + number
    assert started.gone(pids, 30)


@pytest.mark.slow
def test_a_cluster_without_room_is_described(cluster, tmp_path, monkeypatch):
    words = ("run", "--engine", "ray", "-n", "5", "--place-timeout", "1s", "script.py")
    done = program(SCRIPT, tmp_path, monkeypatch, cluster, "-m", "ringlet", *words)
    assert done.returncode == 2
    assert "5 workers with 1 CPU, 0 GPU each found no room" in done.stderr
    assert "127.0.0.3: 2 CPU, 0 GPU" in done.stderr


TRAIN = ("train", "--engine", "ray", "-n", "2", "--cpus", "2", "--preset", "tiny", "--data",
         "text.txt", "--checkpoint-every", "5", "--sample", "0", "--max-restarts", "2")  # fmt: skip
STEPS = 300


class Training:
    """A training in this folder, with a rank on each of two nodes."""

    def __init__(self, cluster, folder, name, *more):
        self.out = folder / name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringlet", *TRAIN, "--steps", str(STEPS), "--out", name, *more],
            cwd=folder, env={**os.environ, "RAY_ADDRESS": cluster.address},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def saved(self):
        """The newest step that is saved."""
        found = [path.name for path in self.out.glob("checkpoints/step-??????")]
        return int(max(found, default="step-0").removeprefix("step-"))

    def goes_on(self):
        """Wait until more is saved."""
        before = self.saved()
        assert until(lambda: self.saved() > before + 5, DEADLINE_S), self.end()
        assert self.saved() < STEPS

    def end(self):
        """Exit code and output."""
        try:
            return self.process.wait(DEADLINE_S), self.process.stdout.read()
        finally:
            self.process.kill()


@pytest.mark.slow
def test_a_training_outlives_ranks_and_hosts_with_the_same_bits(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'ringlet[ray]'")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 500)
    with ray_cluster(3) as cluster:
        whole = Training(cluster, tmp_path, "whole")
        whole.goes_on()
        whole.process.send_signal(signal.SIGTERM)
        code, text = whole.end()
        assert (code, "stopped after step" in text) == (75, True), text
        whole = Training(cluster, tmp_path, "whole", "--resume")
        code, text = whole.end()
        assert (code, f"done after step {STEPS}" in text) == (0, True), text

        run = Training(cluster, tmp_path, "disturbed")
        for what in ("rank", "host", "drain"):
            run.goes_on()
            node = next(node for node in cluster.nodes[1:] if cluster.ranks(node))
            if what == "rank":
                os.kill(cluster.ranks(node)[0], signal.SIGKILL)
            elif what == "host":
                cluster.kill(node)
                cluster.add()
            else:
                cluster.drain(node)
        code, text = run.end()
    assert (code, f"done after step {STEPS}" in text) == (0, True), text
    assert "restart 2 of at most 2" in text
    assert "a node will be taken away" in text
    assert text.count("resumed after step") == 3
    expected, weights = newest_weights(whole.out), newest_weights(run.out)
    assert all((weights[name] == expected[name]).all() for name in expected)


class Actor:
    """Says that Ray has placed it on a host, and who it becomes."""

    def __init__(self, node):
        self.place = types.SimpleNamespace(
            remote=lambda: types.SimpleNamespace(node=node, address=node, ports=[4001, 4002, 4003])
        )
        self.call = types.SimpleNamespace(
            remote=lambda job, work: tuple(job.environment(job.first).items())
        )


@pytest.fixture
def stand_in(monkeypatch):
    """A Ray that has placed actors on the hosts of a list, in this order, and calls nothing."""
    hosts = ["10.0.0.2", "10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"]
    actors = iter(map(Actor, hosts))
    group = types.SimpleNamespace(wait=lambda seconds: True)
    made = types.SimpleNamespace(options=lambda **options: made, remote=lambda: next(actors))
    ray = types.ModuleType("ray")
    ray.exceptions = types.SimpleNamespace(RayError=OSError, RayActorError=ConnectionError)
    ray.is_initialized = lambda: True
    ray.remote, ray.kill = lambda kind: made, lambda actor: None
    ray.get = lambda given, timeout=None: given
    ray.wait = lambda calls, timeout: (calls[:1], calls[1:])
    ray.nodes = lambda: [{"Alive": True, "NodeManagerAddress": "a", "Resources": {"CPU": 2.0}}]
    ray.available_resources = lambda: {"CPU": 0.5}
    groups, strategies = types.ModuleType("ray.util.placement_group"), types.ModuleType("s")
    groups.placement_group = lambda bundles, strategy: group
    groups.remove_placement_group = lambda group: None
    strategies.PlacementGroupSchedulingStrategy = lambda group, bundle: bundle
    for name, module in {
        "ray": ray, "ray.util": types.ModuleType("ray.util"), groups.__name__: groups,
        "ray.util.scheduling_strategies": strategies,
    }.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    return group


def test_ranks_are_given_host_by_host_once_all_are_placed(stand_in):
    ranks = [dict(variables) for variables in spawn(print, 5)]
    names = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "RINGLET_HOST")
    assert [tuple(each[name] for name in names) for each in ranks] == [
        ("0", "0", "2", "0", "10.0.0.2"),
        ("1", "1", "2", "0", "10.0.0.2"),
        ("2", "0", "3", "1", "10.0.0.1"),
        ("3", "1", "3", "1", "10.0.0.1"),
        ("4", "2", "3", "1", "10.0.0.1"),
    ]
    assert {each["RINGLET_RENDEZVOUS"] for each in ranks} == {"tcp://10.0.0.2:4001"}
    assert {each["WORLD_SIZE"] for each in ranks} == {"5"}
    assert len({each["RINGLET_KEY"] for each in ranks}) == 1


def test_too_few_resources_are_said_with_what_there_is(stand_in):
    stand_in.wait = lambda seconds: False
    with pytest.raises(UserError, match=r"5 workers with 1 CPU.*within 3 s.*1 host \(a: 2 CPU"):
        spawn(print, 5, place_timeout=3)


def test_ranks_that_do_not_return_are_named(stand_in, monkeypatch):
    monkeypatch.setattr(sys.modules["ray"], "wait", lambda calls, timeout: ([], calls))
    with pytest.raises(CommTimeout, match=r"ranks \[0, 1\] have not returned within 0.01 s"):
        spawn(print, 2, deadline=0.01)


class Kept:
    """A stand-in for the actor that keeps reports."""

    def __init__(self):
        own = Notices()
        for name in ("begin", "put", "take", "stop"):
            setattr(self, name, types.SimpleNamespace(remote=getattr(own, name)))


@pytest.fixture
def training(stand_in, monkeypatch):
    """A training on nodes a and b, of which those in `away` are drained, and what it has shown."""
    ray, away, shown = sys.modules["ray"], set(), []
    state = types.SimpleNamespace(get_draining_nodes=lambda: dict.fromkeys(away, 0))
    ray._private = types.SimpleNamespace(state=types.SimpleNamespace(state=state))
    screen = types.SimpleNamespace(say=shown.append)
    told = types.SimpleNamespace(take=shown.append, failed=shown.append)
    work = TrainingWork(str, told, screen, grace=30.0)
    work._notices = Kept()

    def poll():
        work._look = 0.0
        work.poll(ray, {"a", "b"})

    return types.SimpleNamespace(work=work, poll=poll, away=away, shown=shown, kept=work._notices)


def test_ranks_save_and_go_on_elsewhere_if_a_node_will_be_taken_away(training):
    training.away |= {"c"}
    training.poll()
    row = {"event": "step", "facts": {"step": 1}}
    assert training.kept.put.remote(row) is False
    training.away |= {"b"}
    training.poll()
    training.poll()
    assert training.shown == [row, "a node will be taken away: saving, to go on in new places"]
    assert training.kept.put.remote(row) is True
    assert training.work.goes_on([0, 75]) and not training.work.goes_on([0, 0])


def test_the_first_signal_lets_ranks_save_and_the_second_ends_them(training):
    with pytest.raises(KeyboardInterrupt):
        training.work.interrupt(signal.SIGTERM)  # nothing runs yet
    training.poll()
    training.work.interrupt(signal.SIGTERM)
    training.poll()
    assert training.kept.put.remote({}) is True
    assert not training.work.goes_on([75, 75])
    with pytest.raises(KeyboardInterrupt):
        training.work.interrupt(signal.SIGINT)


def test_a_training_that_failed_before_its_first_step_is_not_restarted(training):
    assert "before its first step" in training.work.objection(ValueError())
    assert not training.work.objection(PeerLost("rank 1 was lost", 1))
    training.kept.put.remote({"event": "step", "facts": {"step": 1}})
    training.poll()
    assert not training.work.objection(ValueError())


REFUSED = {
    "run --engine slurm": "there is no engine 'slurm' to run on; there is ray",
    "run --engine ray": "Ray is not installed here: pip install 'ringlet[ray]'",
    "run --engine ray --pin": "--pin would do nothing: Ray starts",
    "run --engine ray --hosts a:2": "--hosts would do nothing: Ray starts",
    "run --gpus 1": "--gpus would do nothing: it is for --engine ray",
    "train --engine slurm": "there is no engine 'slurm' to run on; there is ray",
    "train --engine ray": "Ray is not installed here: pip install 'ringlet[ray]'",
    "train --engine ray --nnodes 2": "--nnodes would do nothing: Ray starts",
    "train --engine ray --data none.txt": "none.txt",
    "train --engine ray --auto": "--auto plans for one host",
    "train --cpus 2": "--cpus would do nothing: it is for --engine ray",
    "submit --engine slurm -- train --engine ray": "--engine would do nothing: the engine says",
    "submit --engine slurm -- train --cpus 1": "--cpus would do nothing: the engine says",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_run_is_one_line(words, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    script = ["script.py"] if words.startswith("run") else []
    code, _, shown = outcome(capfd, *words.split(), *script)
    assert code == 2
    assert (REFUSED[words] in shown, shown.count("\n")) == (True, 1)


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1", "Connection refused"), ("a:b", "there is no Ray")]
)
def test_no_cluster_is_one_line(address, reason, stand_in, monkeypatch):
    monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=reason):
        spawn(print, 2)
