"""Ranks on a Ray cluster: `spawn`, and `ringlet run --engine ray`.

Each rank is an actor. Ray says only when all are placed where they are, so they get their ranks
then: first those of the host of the first actor, and so on. Rank 0's host is where they meet.
https://docs.ray.io/en/latest/ray-core/scheduling/placement-group.html
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, NoReturn
from urllib.parse import urlsplit

from ringlet.comm.errors import LONGEST_S, CommTimeout, PeerLost
from ringlet.comm.join.addresses import free_port, tcp
from ringlet.comm.join.environment import DEFAULT_TIMEOUT_S, INSECURE
from ringlet.comm.join.key import KEY, JobKey, find_key
from ringlet.comm.join.launchers import SPARE_PORTS
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.environment import Job

START_S = 120.0
"""How long placed actors may take to start: each is a new Python."""

ECHO_S = 10.0
"""How long after the first failure the other ranks may take to notice it."""

OUTPUT_S = 1.0
"""How long what workers have printed may be on its way: Ray cannot be asked whether all is here."""

REACH_S = 5.0
"""How long a cluster may take to accept a connection."""

PASSED = ("RINGLET_ALGORITHM", "RINGLET_ENCRYPT", "RINGLET_LINKS")
"""What the user may have set for all ranks. Ray passes no variables on."""


@dataclass(frozen=True)
class RayOptions:
    """What each rank gets of the cluster."""

    HEADING: ClassVar = "Ray"
    engine: str | None = option(None, "Run on the cluster of this engine: ray.")
    cpus: float = option(1.0, "Cores of each worker.", least=0, shown="1")
    gpus: float = option(0.0, "GPUs of each worker.", least=0, shown="0")
    place_timeout: float = option(
        60.0, "How long to wait until the cluster has room for all workers.", unit="seconds"
    )


def spawn(
    function: Callable[..., Any],
    workers: int,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    place_timeout: float = 60.0,
    max_restarts: int = 0,
    deadline: float = 7 * 24 * 3600.0,
    timeout: float = DEFAULT_TIMEOUT_S,
    transport: str = "auto",
    **arguments: Any,
) -> list[Any]:
    """Run `function(world, **arguments)` on `workers` ranks of a running Ray cluster; returns what
    each has returned, by rank. Functions, arguments, results and errors travel as Ray sends them.

    Each rank is an actor with so many `cpus` and `gpus`; ray.init(), if it was called, says which
    cluster, else RAY_ADDRESS or the one of this host. If a rank fails, the others get PeerLost, and
    all start again in new places at most `max_restarts` times (RINGLET_GENERATION counts the
    starts): the function has to find what it has saved.

    Raises the error of the rank that failed first, with its traceback as a note; PeerLost if its
    process or host is gone; CommTimeout unless all return within `deadline` seconds of a start;
    UserError if there is no cluster, or no room for all ranks within `place_timeout` seconds.
    """
    options = RayOptions("ray", cpus, gpus, place_timeout)
    job = Job(workers, transport, timeout, folder=None, restarts=max_restarts)
    return _with_restarts(job, options, deadline, partial(_joined, function, arguments))


def run_script(program: list[str], job: Job, options: RayOptions) -> int:
    """Run a script, or "-m" and a module, with arguments, on all ranks; returns the exit code. The
    hosts have this folder at the same path."""
    work, ended_by = partial(_script, program, os.getcwd()), [signal.SIGINT]  # noqa: PTH109 - a text

    def terminate(number: int, frame: object) -> NoReturn:
        ended_by[:] = [signal.Signals(number)]
        raise KeyboardInterrupt  # of all exceptions, Ray passes on this one as it is

    try:
        with _connected(_ray()):
            signal.signal(signal.SIGTERM, terminate)  # Ray's handler writes a stack
            return max(_with_restarts(job, options, LONGEST_S, work))
    except KeyboardInterrupt:
        return ExitCode.SIGNAL + ended_by[0]
    except UserError:
        raise
    except Exception as error:
        print("\n".join([f"ringlet: {_line(error)}", *_notes(error)]), file=sys.stderr)
        if isinstance(error, Exited):
            return error.code
        if isinstance(error, PeerLost):
            return ExitCode.PEER_LOST
        return ExitCode.TIMEOUT if isinstance(error, CommTimeout) else ExitCode.FAILED


class Exited(Exception):
    """A rank has called sys.exit with this code, which means neither success nor "saved"."""

    def __init__(self, rank: int, code: int) -> None:
        super().__init__(rank, code)
        self.rank, self.code = rank, code

    def __str__(self) -> str:
        return f"rank {self.rank} has ended with exit code {self.code}"


class _Place(NamedTuple):
    """Where an actor is, and ports that are free there."""

    node: str
    address: str
    ports: list[int]


class Rank:
    """The actor: the process of one rank."""

    def place(self) -> _Place:
        """Where Ray has placed it."""
        ray = _ray()
        address = ray.util.get_node_ip_address()
        ports = [free_port(address) for _ in range(3)]
        return _Place(ray.get_runtime_context().get_node_id(), address, ports)

    def call(self, job: Job, work: Callable[[], Any]) -> Any:
        """Do the work as the rank that the job says."""
        os.environ.update(job.environment(job.first))
        # Imported here: it reads variables.
        from ringlet import comm

        try:
            return work()
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if code in (ExitCode.OK, ExitCode.STOPPED):
                return code
            raise Exited(job.first, code) from None
        except Exception as error:
            error.add_note(f"--- rank {job.first}, on {job.address} ---\n{traceback.format_exc()}")
            raise
        finally:
            comm.shutdown()  # the others learn at once that they wait in vain
            sys.stdout.flush()


def _joined(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    from ringlet import comm

    return function(comm.init(), **arguments)


def _script(program: list[str], folder: str) -> int:
    from ringlet.launcher.workers.program import run_program

    os.chdir(folder)
    run_program(program)
    return ExitCode.OK


def _with_restarts(
    job: Job, options: RayOptions, deadline: float, work: Callable[[], Any]
) -> list[Any]:
    """What the work returns on each rank, after as many restarts as the job allows."""
    ray = _ray()
    with _connected(ray):
        for generation in range(job.restarts + 1):
            try:
                with _placed(ray, job.size, options) as actors:
                    return _run(ray, replace(job, generation=generation), actors, work, deadline)
            except UserError:
                raise
            except Exception as error:
                if generation == job.restarts:
                    raise
                text = f"{_line(error)}; restart {generation + 1} of at most {job.restarts}"
                print(f"ringlet: {text}", file=sys.stderr, flush=True)
    raise AssertionError("the last start returns or raises")


def _ray() -> Any:
    """Ray's module."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # show the same line of each rank
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("Ray is not installed here: pip install 'ringlet[ray]'") from None
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Connected to the cluster of ray.init(), of RAY_ADDRESS or of this host; none is started."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "auto"
    try:
        if "://" not in address and ":" in address:  # Ray tries for minutes
            parts = urlsplit(f"//{address}")
            socket.create_connection((parts.hostname or "", parts.port or 0), REACH_S).close()
        ray.init(address=address, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        where = "on this host" if address == "auto" else f"at {address} (RAY_ADDRESS)"
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"there is no Ray cluster {where}: {reason.rstrip('.')}. `ray start --head` starts "
            "one, and RAY_ADDRESS=HOST:PORT names another"
        ) from error
    try:
        yield
    finally:
        time.sleep(OUTPUT_S)
        ray.shutdown()


@contextmanager
def _placed(ray: Any, workers: int, options: RayOptions) -> Iterator[list[Any]]:
    """An actor for each rank, on as few hosts as possible; they end with the context."""
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    if workers < 1:
        raise UserError(f"there must be at least one worker, not {workers}")
    amounts = {"CPU": options.cpus, "GPU": options.gpus}
    each = {name: amount for name, amount in amounts.items() if amount}
    if not each:
        raise UserError("each worker needs a core or a GPU: --cpus, --gpus")
    group, actors = placement_group([each] * workers, strategy="PACK"), []
    try:
        if not group.wait(options.place_timeout):
            raise UserError(_no_room(ray, workers, each, options.place_timeout))
        for bundle in range(workers):
            strategy = PlacementGroupSchedulingStrategy(group, bundle)
            made = ray.remote(Rank).options(
                num_cpus=options.cpus, num_gpus=options.gpus, scheduling_strategy=strategy
            )
            actors.append(made.remote())
        yield actors
    finally:
        with suppress(ray.exceptions.RayError):  # the cluster is gone
            for actor in actors:
                ray.kill(actor)
            remove_placement_group(group)


def _no_room(ray: Any, workers: int, each: dict[str, float], waited: float) -> str:
    """A sentence about what was asked for, and what the cluster has."""

    def text(resources: dict[str, float]) -> str:
        return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))

    hosts = [node for node in ray.nodes() if node["Alive"]]
    there = "; ".join(f"{node['NodeManagerAddress']}: {text(node['Resources'])}" for node in hosts)
    return (
        f"{workers} workers with {text(each)} each found no room on the Ray cluster within "
        f"{waited:g} s. It has {len(hosts)} hosts ({there}); {text(ray.available_resources())} "
        "of that are free"
    )


def _run(
    ray: Any, job: Job, actors: list[Any], work: Callable[[], Any], deadline: float
) -> list[Any]:
    """Give the actors their ranks, and wait for them."""
    try:
        places = ray.get([actor.place.remote() for actor in actors], timeout=START_S)
    except ray.exceptions.RayError as error:
        raise UserError(f"workers cannot start on the Ray cluster: {_line(error)}") from error
    nodes = list(dict.fromkeys(place.node for place in places))
    order = sorted(range(job.size), key=lambda each: nodes.index(places[each].node))
    first = places[order[0]]
    key = find_key(os.environ) or JobKey.new()
    common = {name: os.environ[name] for name in PASSED if name in os.environ}
    common |= {KEY: key.text, INSECURE: "0", "RINGLET_AGENT": "0"}
    common |= {SPARE_PORTS: ",".join(map(str, first.ports[1:]))}
    calls = {}
    for rank, each in enumerate(order):
        place = places[each]
        mates = [other for other in order if places[other].node == place.node]
        own = replace(
            job, first=rank, local_size=1, node=nodes.index(place.node), address=place.address,
            rendezvous=tcp(first.address, first.ports[0]), task=mates.index(each),
            tasks=len(mates), variables={**common, "RINGLET_HOST": place.node},
        )  # fmt: skip
        calls[actors[each].call.remote(own, work)] = own
    return _results(ray, calls, deadline)


def _results(ray: Any, calls: dict[Any, Job], deadline: float) -> list[Any]:
    """What the ranks have returned; raises the first failure that is no echo of another."""
    waiting, until = list(calls), time.monotonic() + deadline
    results: dict[int, Any] = {}
    failures: list[Exception] = []
    lost: list[Exception] = []
    while waiting and (left := until - time.monotonic()) > 0:
        done, waiting = ray.wait(waiting, timeout=left)
        for call in done:
            rank, address = calls[call].first, calls[call].address
            try:
                results[rank] = ray.get(call)
            except ray.exceptions.RayActorError as error:
                text = f"rank {rank} on {address} was lost: its process or its host has ended"
                lost.append(PeerLost(text, rank))
                lost[-1].add_note(str(error))
            except ray.exceptions.RayError as error:
                failures.append(getattr(error, "cause", None) or error)
        if done and (failures or lost):
            until = min(until, time.monotonic() + ECHO_S)
    roots = [error for error in failures if not isinstance(error, PeerLost)]
    if errors := [*roots, *lost, *failures]:
        raise errors[0]
    if waiting:
        late = sorted(calls[call].first for call in waiting)
        raise CommTimeout(f"ranks {late} have not returned within {deadline:g} s", late)
    return [results[rank] for rank in range(len(results))]


def _line(error: Exception) -> str:
    """The error in one line, without its notes."""
    kind, text = type(error).__name__, str(error).strip()
    return f"{kind}: {text.splitlines()[0]}" if text else kind


def _notes(error: Exception) -> list[str]:
    notes: list[str] = getattr(error, "__notes__", [])
    return notes
