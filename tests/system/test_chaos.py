"""Chaos: whatever happens to a rank, wherever, the job ends as DESIGN.md promises.

A case is a pure function of its seed: `pytest -m '' "tests/system/test_chaos.py::test_chaos[17]"`
plays number 17 again. All of them: `pytest -m slow tests/system/test_chaos.py`, about ten minutes;
RINGLET_CHAOS=1000 plays so many seeds. The ordinary tests play SAMPLE.
"""

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ringlet import comm
from ringlet.launcher.testing.pool import RanksFailed, WorkerPool
from ringlet.runtime import Trainer, latest_checkpoint, load_corpus, make_config
from ringlet.runtime.training.export import load_model

CASES = int(os.environ.get("RINGLET_CHAOS", "260"))
SAMPLE = (0, 171, 22, 23, 89, 90)

OPERATIONS = (
    "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "reduce", "gather",
    "scatter", "barrier", "send", "asynchronous", "objects",
)  # fmt: skip
FAULTS = (
    "kill at", "kill in", "kill after", "stop at", "stop in", "stop after", "close in",
    "close after", "delay at", "drop at", "corrupt at", "garble at", "truncate at", "duplicate at",
    "mismatch at",
)  # fmt: skip
OF_MESSAGES = ("drop", "corrupt", "garble", "truncate", "duplicate")
REAL = {"asynchronous": "all_reduce", "objects": "all_gather"}

LATENCY_S = {"kill": 2.0, "close": 2.0, "mismatch": 1.0}
SLACK_S = 0.3
"""For a loaded machine."""

TIMEOUT_S = 1.0
CLOSE_TIMEOUT_S = 3.0
"""A loss has to be seen before."""

TRAINING_TIMEOUT_S = 4.0
EXIT_S = 5.0


@dataclass(frozen=True)
class Case:
    """What happens to which rank of how many, where."""

    scene: str
    size: int
    transport: str
    kind: str
    place: str
    rank: int
    number: int
    operation: str
    elements: int = 0
    order: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()

    @property
    def fault(self):
        """As comm/faults.py has it; a mismatch is the program's own."""
        if self.kind == "mismatch":
            return ()
        name = REAL.get(self.operation, self.operation)
        place = "at" if name == "send" else self.place
        seconds = " by 0.3 s" if self.kind == "delay" else ""
        return (f"{self.kind} rank {self.rank} {place} its {self.number}th {name}{seconds}",)


def case(seed):
    """The case of this number."""
    draw, block, place = random.Random(seed), *divmod(seed, 13)
    size = draw.choice((2, 3, 4))
    rank = draw.randrange(size)
    if place < 9:
        index = block * 9 + place
        operation = OPERATIONS[index % len(OPERATIONS)]
        kind, where = FAULTS[index // len(OPERATIONS) % len(FAULTS)].split()
        if (kind, operation) == ("mismatch", "send"):
            operation = "all_to_all"  # a transfer does not see what collective another is in
        scene, number = "collectives", draw.choice((1, 2))
    else:
        scene = ("training", "checkpointing", "rendezvous", "job")[place - 9]
        kind, where = draw.choice(FAULTS[:-1]).split()
        operation = {"training": "all_reduce", "checkpointing": "all_gather"}.get(scene)
        operation = operation or draw.choice(OPERATIONS[:9])
        number = draw.randrange(1, {"training": 40, "checkpointing": 12, "rendezvous": 30}.get(
            scene, 3))  # fmt: skip
    transports = ("ipc", "tcp") if kind in OF_MESSAGES else ("auto", "ipc", "tcp")
    return Case(
        scene, size, draw.choice(transports), kind, where, rank, number, operation,
        draw.choice((1, 1000, 70_000, 600_000)),
        tuple(draw.sample(OPERATIONS[:10], 10)),
        tuple(name for name in REAL if name == operation or draw.random() < 0.2),
    )  # fmt: skip


# -- what the ranks do ----------------------------------------------------------------------------


def right(world, operation, n, variants, timeout):
    """Call the operation; whether its result is right to the bit."""
    size, rank, mine = world.size, world.rank, np.full(n, world.rank + 1.0)
    total, everybodys = size * (size + 1) / 2, np.arange(1.0, size + 1)
    options = {"timeout": timeout}
    if operation == "all_reduce":
        options["async_op"] = "asynchronous" in variants
        work = world.all_reduce(mine, **options)
        result = work.wait() if options["async_op"] else work
        return (result == total).all()
    if operation == "reduce_scatter":
        return (world.reduce_scatter(np.tile(mine, size), **options) == total).all()
    if operation == "all_gather" and "objects" in variants:
        return world.all_gather_object([rank, n], **options) == [[r, n] for r in range(size)]
    if operation == "all_gather":
        return (world.all_gather(mine, **options) == everybodys[:, None]).all()
    if operation == "all_to_all":
        sent = np.repeat(everybodys, n) * (rank + 1)
        return (world.all_to_all(sent, **options) == np.repeat(everybodys, n) * (rank + 1)).all()
    if operation == "broadcast":
        return (world.broadcast(mine, root=size - 1, **options) == size).all()
    if operation == "reduce":
        result = world.reduce(mine, root=0, **options)
        return result is None or (result == total).all()
    if operation == "gather":
        result = world.gather(mine, root=size - 1, **options)
        return result is None or (result == everybodys[:, None]).all()
    if operation == "scatter":
        rows = np.repeat(everybodys, n).reshape(size, n) if rank == 0 else None
        return (world.scatter(rows, root=0, **options) == rank + 1).all()
    if operation == "barrier":
        return world.barrier(**options) is None
    for peer in range(1, size):
        work = world.isend(mine, (rank + peer) % size, **options)
        source = (rank - peer) % size
        received = world.recv(source, **options)
        work.wait()
        if not (received == source + 1).all():
            return False
    return True


def caught(call):
    """Call it; what a test can send home of its result or its error."""
    begun = time.monotonic()
    try:
        result, error = call(), None
    except comm.CommError as raised:
        result, error = None, raised
    return {
        "right": error is None and bool(result),
        "error": "" if error is None else type(error).__name__,
        "text": str(error or ""),
        "rank": getattr(error, "rank", None),
        "waiting": list(getattr(error, "waiting_for", ())),
        "seconds": time.monotonic() - begun,
    }


def play(world, n, order, variants, mismatch, timeout):
    """Two rounds of all operations, and a last meeting; [] or the first failure."""
    counts = Counter()
    for operation in [*order, *order, "barrier"]:
        counts[operation] += 1
        count, called = n, operation
        if [world.rank, REAL.get(operation, operation), counts[operation]] == mismatch:
            alike = operation in ("barrier", "scatter") or "objects" in variants
            called, count = "reduce" if alike else operation, n + 1
        found = caught(lambda c=called, k=count: right(world, c, k, variants, timeout))
        if not found["right"]:
            return [{**found, "operation": operation}]
    return []


def ports(world):
    """Where this rank listens."""
    return [a for a in sorted(world._endpoint.addresses) if a.startswith("tcp://")]


TINY = {
    "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 16, "batch_size": 12, "steps": 12,
    "eval_every": 6, "eval_windows": 8, "warmup_steps": 2,
}  # fmt: skip


def train(world, folder, every):
    config = make_config("tiny", None, {**TINY, "checkpoint_every": every})
    corpus = load_corpus("pydoc", config.block_size)
    found = caught(lambda: Trainer(config, corpus, world, folder).run().step == config.steps)
    return [] if found["right"] else [{**found, "operation": "training"}]


# -- the stage ------------------------------------------------------------------------------------


@dataclass
class Stage:
    """Where cases are played: warm ranks, and a word in all processes' environments, by which
    those that are left are found."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    pools: dict = field(default_factory=dict)
    outcomes: Counter = field(default_factory=Counter)

    @property
    def variables(self):
        return {"RINGLET_STAGE": self.token, "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"}

    def pool(self, case):
        key = (case.size, case.transport)
        if key not in self.pools:
            self.pools[key] = WorkerPool(*key, timeout=TRAINING_TIMEOUT_S, variables=self.variables)
        return self.pools[key]

    def clear(self):
        """End all ranks; nothing may be left of them."""
        while self.pools:
            self.pools.popitem()[1].close()
        self.check_nothing_is_left()

    def check_nothing_is_left(self):
        until = time.monotonic() + 2
        while (left := self.left()) and time.monotonic() < until:
            time.sleep(0.02)
        assert not left, left

    def left(self):
        segments, processes = {path.name for path in Path("/dev/shm").glob("ringlet-*")}, []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX" and self.token in (entry / "environ").read_text():
                    processes.append(entry.name)
                maps = (entry / "maps").read_text() if segments else ""
                segments = {name for name in segments if name not in maps}
        return [*processes, *segments, *map(str, self.folder.iterdir())]


@pytest.fixture(scope="module")
def stage(request):
    with tempfile.TemporaryDirectory(prefix="c") as folder:
        made = Stage(Path(folder))
        yield made
        made.clear()
    plugins = request.config.pluginmanager
    with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
        for outcome, count in sorted(made.outcomes.items()):
            print(f"\nchaos: {count:4} {outcome}", end="")


def on_stage(stage, case, function, deadline, **arguments):
    """Every rank's result; a victim's is None."""
    pool, ends = stage.pool(case), {"kill": "SIGKILL", "stop": "has not returned"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(stage.folder))
        listening = pool.run(ports)[0]  # which starts the ranks
    try:
        results = dict(enumerate(pool.run(function, deadline, case.fault, **arguments)))
    except RanksFailed as failed:
        assert list(failed.failures) == [case.rank], failed
        assert case.kind in ends, failed
        assert ends[case.kind] in failed.failures[case.rank]
        results = {**failed.results, case.rank: None}
    # Segments in a pool's hands are mapped until it ends; what has met an error is not used again.
    if any(results.values()) or None in results.values():
        stage.clear()
        assert not any(answers(address) for address in listening)
    return results


def answers(address):
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def judge(case, results, timeout):
    """Check every rank's first failure against what is promised; returns the outcome in words."""
    failures = {rank: found[0] for rank, found in results.items() if found}
    for rank, found in failures.items():
        where = f"rank {rank} in {found['operation']}: {found}"
        assert found["error"], f"a wrong result: {where}"
        if case.kind in ("kill", "close"):
            assert found["error"] == "PeerLost", where
            assert case.rank in (found["rank"], rank), where
        elif case.kind == "mismatch":
            assert found["error"] == "CollectiveMismatch", where
            assert "called" in found["text"], where
        elif case.kind == "stop":
            assert found["error"] == "CommTimeout", where
            assert f"rank {case.rank}" in found["text"], where
        if found["error"] == "CommTimeout":
            assert found["waiting"], where
        assert found["seconds"] < LATENCY_S.get(case.kind, timeout + 1.0) + SLACK_S, where
    if case.kind in ("delay", "duplicate"):
        assert not failures, failures
    if case.kind == "mismatch":
        assert len(failures) == case.size, failures
    errors = sorted({found["error"] for found in failures.values()})
    return f"{case.kind}: {', '.join(errors) or 'right result'}"


# -- the scenes -----------------------------------------------------------------------------------


def collectives(stage, case, tmp_path):
    timeout = CLOSE_TIMEOUT_S if case.kind == "close" else TIMEOUT_S
    mismatch = [case.rank, REAL.get(case.operation, case.operation), case.number]
    results = on_stage(
        stage, case, play, 5.0 if case.kind == "stop" else 15.0,
        n=case.elements, order=list(case.order), variants=list(case.variants),
        mismatch=mismatch if case.kind == "mismatch" else [], timeout=timeout,
    )  # fmt: skip
    if case.kind in ("kill", "stop"):
        assert None in results.values(), "it did not happen"
    return judge(case, results, timeout)


def training(stage, case, tmp_path):
    every = 1 if case.scene == "checkpointing" else 4
    deadline = TRAINING_TIMEOUT_S + (2.5 if case.kind == "stop" else 20)
    results = on_stage(stage, case, train, deadline, folder=tmp_path / "run", every=every)
    outcome = judge(case, results, TRAINING_TIMEOUT_S)
    words = []
    found = latest_checkpoint(tmp_path / "run" / "checkpoints", words.append)
    assert not words
    if found is not None:
        load_model(found)
        for parameter in load_model(found).parameters():
            assert np.isfinite(parameter.data).all()
    assert found is not None or any(results.values()) or None in results.values()
    return outcome


RENDEZVOUS = """
import os, signal, sys, time
from pathlib import Path
import zmq
from ringlet import comm
from ringlet.comm.faults import cut
kind, rank, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
calls = 0

class Every:
    def __contains__(self, address):
        return address.startswith("tcp://") or address.endswith(("rendezvous", ".inbox"))

def strike():
    Path("struck").write_text(str(time.time()))
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "delay":
        time.sleep(0.3)

def changed(data):
    data = bytearray(data)
    if kind in ("corrupt", "garble") and data:
        data[len(data) // 2 if kind == "corrupt" else len(data) // 4] ^= 0x10
    return bytes(data[:-1] if kind == "truncate" else data)

def wrap(name):
    plain = getattr(zmq.Socket, name)
    def call(self, *arguments, **options):
        global calls
        calls += 1
        if calls == number:
            strike()
            if kind == "close":
                cut(Every())
            elif name == "send" and kind == "drop":
                return None
            elif name == "send" and kind == "duplicate":
                plain(self, *arguments, **options)
            elif name == "send" and arguments and kind in ("corrupt", "garble", "truncate"):
                arguments = (changed(arguments[0]), *arguments[1:])
        return plain(self, *arguments, **options)
    setattr(zmq.Socket, name, call)

if rank == int(os.environ["RANK"]):
    for name in ("bind", "connect", "send", "recv", "poll", "send_multipart", "recv_multipart"):
        wrap(name)
import numpy as np
world = comm.init(timeout=3)
calls = -10**9
total = world.all_reduce(np.ones(10), timeout=3)
if not (total == world.size).all():
    print("WRONG", flush=True)
"""


JOB = """
import sys, time
from pathlib import Path
import numpy as np
from ringlet import comm
world = comm.init(timeout=20)
comm.inject(sys.argv[1:2])
sys.path.insert(0, sys.argv[2])
import test_chaos
for operation in sys.argv[3].split(",") * 2:
    if world.rank == int(sys.argv[4]):
        Path("struck").write_text(str(time.time()))
    if not test_chaos.right(world, operation, int(sys.argv[5]), (), test_chaos.TIMEOUT_S):
        print("WRONG", flush=True)
world.barrier(timeout=test_chaos.TIMEOUT_S)
"""

CODES = {
    "kill": (128 + signal.SIGKILL,),
    "stop": (124,),
    "delay": (0,),
    "duplicate": (0,),
}
"""What `ringlet run` must return."""


def launched(stage, case, tmp_path, text, *arguments, waits):
    """`ringlet run` of the text: how it ended, checked; returns the outcome in words."""
    stage.clear()
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    command = [
        sys.executable, "-c", "from ringlet.launcher.cli import main; main()", "run",
        "-n", str(case.size), "--transport", case.transport, str(tmp_path / "script.py"),
        *map(str, arguments),
    ]  # fmt: skip
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **stage.variables}, capture_output=True,
        text=True, timeout=30,
    )  # fmt: skip
    ended, struck = time.time(), tmp_path / "struck"
    stage.check_nothing_is_left()
    assert "WRONG" not in run.stdout, run
    if case.kind != "mismatch" and struck.exists():
        assert run.returncode in CODES.get(case.kind, range(256)), run
        allowed = EXIT_S + (0 if case.kind == "kill" else waits + 1)
        assert ended - float(struck.read_text()) < allowed + SLACK_S, run
    if run.returncode:
        assert "ringlet: rank" in run.stderr, run
    names = ("PeerLost", "CommTimeout", "CollectiveMismatch", "CommError")
    met = next((name for name in names if name in run.stderr), "error of its own")
    return f"{case.kind}: {met if run.returncode else 'right result'}"


def rendezvous(stage, case, tmp_path):
    return launched(
        stage, case, tmp_path, RENDEZVOUS, case.kind, case.rank, case.number, waits=3
    )  # fmt: skip


def job(stage, case, tmp_path):
    return launched(
        stage, case, tmp_path, JOB, *case.fault, Path(__file__).parent, ",".join(case.order),
        case.rank, case.elements, waits=TIMEOUT_S,
    )  # fmt: skip


SCENES = {
    "collectives": collectives, "training": training, "checkpointing": training,
    "rendezvous": rendezvous, "job": job,
}  # fmt: skip


def perform(stage, seed, tmp_path):
    played = case(seed)
    outcome = SCENES[played.scene](stage, played, tmp_path)
    stage.outcomes[f"{played.scene}: {outcome}"] += 1


def test_the_cases_cover_what_is_promised():
    cases = [case(seed) for seed in range(260)]
    met = {(c.operation, c.kind, c.place) for c in cases if c.scene == "collectives"}
    everything = {(op, *fault.split()) for op in OPERATIONS for fault in FAULTS}
    assert met == everything - {("send", "mismatch", "at")}
    assert {c.size for c in cases} == {2, 3, 4}
    assert {c.scene for c in cases} == set(SCENES)
    assert [case(seed) for seed in range(260)] == cases
    assert {case(seed).scene for seed in SAMPLE} == set(SCENES)


@pytest.mark.parametrize("seed", SAMPLE)
def test_chaos_in_short(stage, tmp_path, seed):
    perform(stage, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(CASES))
def test_chaos(stage, tmp_path, seed):
    perform(stage, seed, tmp_path)
