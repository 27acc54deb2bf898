"""What endpoints tell each other besides arrays: control messages, and what they have said.

hello               the first message of every peer
credit TAKEN        the peer has taken so many bytes of what this rank has sent
full                the peer has messages that wait for this rank's credit
waiting, resumed    the call in which the peer has waited for a while, and that it has ended
mismatch            the peer has found that ranks of a group are in different calls
lost                the ranks that the peer knows to be lost
goodbye             the last message of a peer that shuts down, with the lost ranks it knows
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ringlet.comm.signature import Signature
from ringlet.comm.sockets.credits import Credits
from ringlet.comm.sockets.liveness import Liveness


class WaitNotice(NamedTuple):
    """What a peer says of its wait: for rank `source` (-1: none), told at `heard` (monotonic)."""

    source: int
    stream: int
    sequence: int
    signature: Signature
    seconds: float
    heard: float


class Notices:
    """What the peers have said. `release(peer, taken)` sends what waits for the peer's credit."""

    def __init__(
        self, liveness: Liveness, credits: Credits, release: Callable[[int, int], None]
    ) -> None:
        self.greeted: set[int] = set()
        self.waiting: dict[tuple[str, int], WaitNotice] = {}  # by group and rank
        self.mismatched: dict[str, str] = {}  # by group: both sides, in words
        self._liveness, self._credits, self._release = liveness, credits, release

    def handle(self, source: int, kind: str, content: Any) -> None:
        """Act on a notice of a peer's; raises what reading it raises if it is malformed."""
        match kind:
            case "hello":
                self.greeted.add(source)
            case "credit":
                self._release(source, int(content))
            case "full":
                self._credits.full.add(source)
            case "waiting":
                group, waited_for, stream, sequence, signature, seconds = content
                operation, dtype, shape, detail = signature
                self.waiting[str(group), source] = WaitNotice(
                    int(waited_for),
                    int(stream),
                    int(sequence),
                    Signature(str(operation), str(dtype), tuple(shape), str(detail)),
                    float(seconds),
                    time.monotonic(),
                )
            case "resumed":
                group, stream, sequence = content
                said = self.waiting.get((str(group), source))
                if said is not None and (said.stream, said.sequence) == (stream, sequence):
                    del self.waiting[str(group), source]
            case "mismatch":
                self.mismatched.setdefault(str(content["group"]), str(content["text"]))
            case "lost" | "goodbye":
                self._liveness.hear({int(rank): str(cause) for rank, cause in content.items()})
                if kind == "goodbye":
                    self._liveness.departed.add(source)
            case _:
                raise ValueError(f"an unknown notice: {kind}")
