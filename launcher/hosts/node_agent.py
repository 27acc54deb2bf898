"""The agents of all hosts but host 0: they join, report what fails, and follow the coordinator."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict

import ringlet
from ringlet.comm.join import meeting
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.network_agent import ENDED, Assign, NetworkAgent, meeting_point
from ringlet.launcher.hosts.node import NodeSpec, gone
from ringlet.launcher.hosts.notices import Assignment, check_notice, parse
from ringlet.launcher.supervisor.failure import Failure, first_cause
from ringlet.launcher.supervisor.options import WorkerOptions

_log = logging.getLogger("ringlet.agents")


class NodeAgent(NetworkAgent):
    """The end of the channel on a host that is not host 0."""

    def __init__(self, spec: NodeSpec, workers: int, options: WorkerOptions) -> None:
        self._outcome: meeting.Notice | None = None
        self._again: bool | None = None
        point, who = meeting_point(spec), f"host {spec.node}"
        channel = meeting.MeetingSocket.connect(point, who, check_notice)
        super().__init__(spec, workers, options, channel)
        self._others[0] = self._state()

    def meet(self, timeout: float, assign: Assign) -> Assignment:
        """See NetworkAgent. A host that comes while the job is running waits for its next start,
        however long that takes. One that an engine has started anew asks again until the job of
        which it was a part has ended, too."""
        refusal = ""
        missing, waiting, rejoins = [0], False, bool(self.assignment.hosts)
        log = meeting.MissingLog("host", f"host {self.node}", self.address)
        tell = meeting.Every(meeting.TELL_EVERY_S)
        own, nodes, job = asdict(self._own()), self.spec.nodes, self.spec.placed.job
        join = {"join": own, "nodes": nodes, "version": ringlet.__version__, "job": job}
        until = time.monotonic() + timeout
        while (
            0 not in gone and time.monotonic() < until and not (rejoins and self._others[0].silent)
        ):
            if tell.due():
                self._socket.send(join)
            self._socket.poll()
            for _, notice in self._socket.receive():
                self._others[0].last = time.monotonic()
                if "assignment" in notice:
                    self._outcome = self._again = None
                    return self._begin(Assignment.parse(notice["assignment"]))
                if "refused" in notice:
                    refusal = f"host 0 at {self.address} refused: {notice['refused']}"
                    if not (self.spec.placed.by_engine and notice.get("later")):
                        raise UserError(refusal)
                if "wait" in notice:
                    until = time.monotonic() + timeout
                    if not waiting:
                        _log.warning("ringlet: the job is running; this host joins it when it "
                                     "starts again")  # fmt: skip
                    waiting = True
                missing = notice.get("missing", missing)
            if not waiting:
                log(missing)
        if 0 in gone:
            raise UserError(f"host 0 cannot come: {ENDED}")
        raise UserError(refusal or self._lateness(missing, timeout))

    def _handle(self, route: bytes, notice: meeting.Notice) -> Iterator[Failure]:
        if "outcome" in notice:
            self._outcome = notice
        if "again" in notice:
            self._again = notice["again"]
        yield from super()._handle(route, notice)

    def ended(self, leaving: bool) -> None:
        self._send_all({"ended": self.node, "leaving": leaving})

    def concluded(self) -> bool:
        return self._outcome is not None or self._others[0].lost

    def outcome(self, code: int) -> tuple[Failure | None, int]:
        if self._outcome is None:
            return first_cause(self.failures), ExitCode.PEER_LOST
        failure = self._outcome["outcome"]
        return None if failure is None else parse(Failure, failure), self._outcome["code"]

    def agree(self, again: bool) -> bool:
        """See Agent. If the coordinator is lost, the job does not start again."""
        while self._again is None and not self._others[0].lost:
            time.sleep(meeting.POLL_MS / 1000)
            self.poll()
        return bool(self._again)

    @property
    def shown_elsewhere(self) -> bool:
        return self.spec.over_ssh and self._outcome is not None
