"""The starts of a job: actors are placed, get their ranks and work, and start again if they fail.

Ray says only when all are placed where they are, so they get their ranks then: first those of the
host of the first actor, and so on. Rank 0's host is where they meet.
"""

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from ringlet.comm.errors import LONGEST_S, AuthenticationError, CommTimeout, PeerLost
from ringlet.comm.join.addresses import tcp
from ringlet.comm.join.environment import INSECURE
from ringlet.comm.join.key import KEY, JobKey, find_key
from ringlet.comm.join.launchers import SPARE_PORTS
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.ray.cluster import connected, placed, ray_module
from ringlet.launcher.ray.options import RayOptions
from ringlet.launcher.ray.rank import Exited, Rank
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.output import Screen

START_S = 120.0
"""How long placed actors may take to start: each is a new Python."""

ECHO_S = 10.0
"""How long after the first failure the other ranks may take to notice it."""

PASSED = ("RINGLET_ALGORITHM", "RINGLET_ENCRYPT", "RINGLET_LINKS")
"""What the user may have set for all ranks. Ray passes no variables on."""


class Work:
    """What all ranks do, a function that Ray can send, and what the caller does meanwhile."""

    poll_s = LONGEST_S
    """How often `poll` is called."""

    signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGTERM,)
    """Those for `interrupt`; Ray's own handler of this one writes a stack."""

    def __init__(self, function: Callable[[], Any] = lambda: None) -> None:
        self._function = function
        self.screen = Screen()

    def begin(self, ray: Any, generation: int) -> Callable[[], Any]:
        """The function, at a start of the job; raises UserError if there can be none."""
        return self._function

    def poll(self, ray: Any, nodes: set[str]) -> None:
        """Called while the ranks work, on these nodes."""

    def objection(self, error: Exception) -> str:
        """Why the job should not start again after this error; empty if it should."""
        return ""

    def goes_on(self, results: list[Any]) -> bool:
        """Whether ranks that have returned this are to go on in new places."""
        return False

    def interrupt(self, number: signal.Signals) -> None:
        """This signal has come; its handler calls this."""
        raise KeyboardInterrupt  # of all exceptions, Ray passes on this one as it is


def exit_code(job: Job, options: RayOptions, work: Work) -> int:
    """Run the job, show its failure if it fails, and return the exit code."""
    ended_by = [signal.SIGINT]

    def interrupt(number: int, frame: object) -> None:
        ended_by[:] = [signal.Signals(number)]
        work.interrupt(*ended_by)

    try:
        with connected(ray_module()):
            for number in work.signals:
                signal.signal(number, interrupt)
            return max(run_job(job, options, work))
    except KeyboardInterrupt:
        return ExitCode.SIGNAL + ended_by[0]
    except (UserError, AuthenticationError):
        raise
    except Exception as error:
        work.screen.line("\n".join([f"ringlet: {_line(error)}", *_notes(error)]), sys.stderr)
        if isinstance(error, Exited):
            return error.code
        if isinstance(error, PeerLost):
            return ExitCode.PEER_LOST
        return ExitCode.TIMEOUT if isinstance(error, CommTimeout) else ExitCode.FAILED


def run_job(job: Job, options: RayOptions, work: Work, deadline: float = LONGEST_S) -> list[Any]:
    """What the work returns on each rank, after as many restarts as the job allows. Raises
    AuthenticationError for a key that is none, or that others can read."""
    ray, used = ray_module(), 0
    given = find_key(os.environ)
    with connected(ray):
        for generation in itertools.count():
            function = work.begin(ray, generation)
            try:
                with placed(ray, Rank, job.size, options) as actors:
                    this = replace(job, generation=generation)
                    calls = _start(ray, this, actors, function, given or JobKey.new())
                    results = _results(ray, calls, work, deadline)
                if not work.goes_on(results):
                    return results
            except UserError:
                raise
            except Exception as error:
                reason = work.objection(error)
                if reason:
                    work.screen.say(f"not restarted: {reason}")
                if reason or used == job.restarts:
                    raise
                used += 1
                work.screen.say(f"{_line(error)}; restart {used} of at most {job.restarts}")
    raise AssertionError("counts for ever")


def _start(
    ray: Any, job: Job, actors: list[Any], function: Callable[[], Any], key: JobKey
) -> dict[Any, Job]:
    """Give the actors their ranks, and call the function: the calls, and what each is told."""
    try:
        places = ray.get([actor.place.remote() for actor in actors], timeout=START_S)
    except ray.exceptions.RayError as error:
        raise UserError(f"workers cannot start on the Ray cluster: {_line(error)}") from error
    nodes = list(dict.fromkeys(place.node for place in places))
    order = sorted(range(job.size), key=lambda each: nodes.index(places[each].node))
    first = places[order[0]]
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
        calls[actors[each].call.remote(own, function)] = own
    return calls


def _results(ray: Any, calls: dict[Any, Job], work: Work, deadline: float) -> list[Any]:
    """What the ranks have returned; raises the first failure that is no echo of another."""
    waiting, until = list(calls), time.monotonic() + deadline
    nodes = {job.variables["RINGLET_HOST"] for job in calls.values()}
    results: dict[int, Any] = {}
    failures: list[Exception] = []
    lost: list[Exception] = []
    while waiting and (left := until - time.monotonic()) > 0:
        done, waiting = ray.wait(waiting, timeout=min(left, work.poll_s))
        work.poll(ray, nodes)
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
