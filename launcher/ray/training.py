"""A training on all ranks: `ringlet train --engine ray`.

Rank 0's reports go to an actor next to the caller, which keeps them until they are taken, and whose
answers tell rank 0 when to stop: all ranks stop after the same step, as on a signal.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ringlet.comm.errors import PeerLost
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.ray.cluster import draining, ray_module
from ringlet.launcher.ray.job import Work
from ringlet.launcher.ray.rank import enter, folder_here
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.output import Screen

DRAINING_EVERY_S = 1.0


class Notices:
    """The actor that keeps rank 0's reports."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """At each start of the job."""
        self._kept: list[Notice] = []
        self._stops = False

    def put(self, notice: Notice) -> bool:
        """Keep a report; whether the ranks are to stop."""
        self._kept.append(notice)
        return self._stops

    def take(self) -> list[Notice]:
        """The reports since the last call."""
        kept, self._kept = self._kept, []
        return kept

    def stop(self) -> None:
        """From now on, tell rank 0 to stop."""
        self._stops = True


class Told(Protocol):
    """Who is told of a training: as the command has it."""

    def take(self, notice: Notice) -> None:
        """A report of rank 0."""
        ...

    def failed(self, facts: Mapping[str, Any]) -> None:
        """The ranks have failed."""
        ...


class TrainingWork(Work):
    """Trains by the task that `task(generation)` makes, and hands reports to `told`. The first
    signal lets the ranks save, within `grace` seconds. If one of their nodes is to be taken away,
    they save and go on in new places."""

    poll_s = 0.1
    signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(
        self,
        task: Callable[[int], str],
        told: Told,
        screen: Screen,
        grace: float,
    ) -> None:
        super().__init__()
        self.screen = screen
        self._task, self._told, self._grace = task, told, grace
        self._notices: Any = None
        self._working = self._begun = False
        self._asked = self._stops = self._moves = False
        self._until = self._look = 0.0

    def begin(self, ray: Any, generation: int) -> Callable[[], Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = self._task(generation)
        if self._notices is None:  # now: Ray takes a while to see that a host is dead
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)
            made = ray.remote(Notices).options(num_cpus=0, scheduling_strategy=here)
            self._notices = made.remote()
        self._notices.begin.remote()
        self._working = self._stops = self._moves = False
        return partial(_train, task, folder_here(), self._notices)

    def poll(self, ray: Any, nodes: set[str]) -> None:
        self._working, now = True, time.monotonic()
        for notice in ray.get(self._notices.take.remote()):
            self._begun |= notice.get("event") == "step"
            self._told.take(notice)
        if not self._asked and not self._stops and now >= self._look:
            self._look = now + DRAINING_EVERY_S
            self._moves = bool(nodes & draining(ray))
            if self._moves:
                self.screen.say("a node will be taken away: saving, to go on in new places")
        if (self._asked or self._moves) and not self._stops:
            self._stops = True
            self._notices.stop.remote()
        if self._asked and now >= self._until:
            raise KeyboardInterrupt

    def objection(self, error: Exception) -> str:
        self._told.failed({"cause": str(error), "ranks": []})
        if self._begun or isinstance(error, PeerLost):
            return ""
        return "it failed before its first step"

    def goes_on(self, results: list[Any]) -> bool:
        return self._moves and not self._asked and ExitCode.STOPPED in results

    def interrupt(self, number: signal.Signals) -> None:
        if self._asked or not self._working:
            super().interrupt(number)
        grace = math.inf if number == signal.SIGUSR2 else self._grace  # another will come
        self._asked, self._until = True, time.monotonic() + grace


def _train(task: str, folder: str, notices: Any) -> int:
    from ringlet.launcher.workers.train_worker import work

    ray, facts = ray_module(), json.loads(task)
    answers: list[Any] = []

    def report(notice: Notice) -> None:
        if os.environ["RANK"] != "0":
            return
        # The answer to the last report is here: waiting for this one's would take a while.
        if answers and ray.get(answers.pop()) and notice.get("event") == "step":
            os.kill(os.getpid(), signal.SIGUSR2)  # the training loop handles it
        answers.append(notices.put.remote(notice))

    enter(folder)
    if os.environ["RANK"] == "0" and not Path(facts["folder"]).is_dir():
        raise UserError(
            f"rank 0 on {os.environ['RINGLET_ADDRESS']} cannot see {facts['folder']}: --out has to "
            "be in a folder that the hosts of the Ray cluster share, at the same path"
        )
    if ray.get_gpu_ids():  # a rank sees its own alone
        os.environ["LOCAL_RANK"] = "0"
    try:
        work(facts, report)
    finally:
        ray.get(answers)
    return ExitCode.OK
