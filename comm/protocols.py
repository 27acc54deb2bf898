"""What the parts of comm know of each other: a task, a call in flight, what it can wait for.

A collective or a transfer is written once, as a generator that yields what it waits for. A blocking
call drives it in the caller's thread; the progress thread drives the asynchronous ones.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from ringlet.comm.arrays import Array
from ringlet.comm.signature import Signature
from ringlet.comm.stats import Exchange

Callback: TypeAlias = Callable[[], None]


class Wait:
    """Something that a call waits for."""

    brings = False
    """Whether there is something to `take` for the generator when it is over."""

    poll_ms = 50
    """How often to check whether it is over, where messages wake who waits."""

    why = ""
    """What it waits in, in words, if no rank is waited for."""

    awaited: int | None = None
    """The world rank that is waited for, if it is one."""

    def ready(self) -> bool:
        """Whether it is over; never waits."""
        return False

    def soon(self) -> bool:
        """The same after waiting without sleep for a very short time, where that helps."""
        return self.ready()

    def take(self) -> Any:
        """What was waited for."""

    def wait(self, tick: Callback, poll: Callback) -> None:
        """Sleep until it is over. `tick`, which may raise, is called every few milliseconds, and
        `poll`, which reads messages, where nothing else reads them."""
        while not self.ready():
            poll()
            tick()
            time.sleep(0.005)

    def nap(self, seconds: float) -> bool:
        """Sleep until it may be over, or for this long; False where that takes reading messages."""
        return False

    @property
    def needed(self) -> int | None:
        """The awaited rank if it must still be there: a message that has left can arrive at a rank
        that has shut down."""
        return self.awaited


Program: TypeAlias = Generator[Wait, Any, Any]


@dataclass
class Task:
    """What calls that are alike have to do. An `algorithm` is named where the user chose it."""

    operation: str
    op: str = ""
    root: int = 0
    algorithm: str = ""

    prepared: Any = field(default=None, init=False)
    """What the transport keeps for the next of them."""


class Call(Protocol):
    """What a transport sees of a call in flight."""

    signature: Signature
    sequence: int
    traffic: list[Exchange]
    """What the transport sends and receives for it, by peer; to be appended to."""

    def tell(self) -> None:
        """Tell the group at once what this rank waits in."""


class Transport(Protocol):
    """A way to run tasks among the ranks of a group."""

    def run(self, call: Any, task: Task, source: Array, result: Array) -> Program:
        """Run the task for a call. Both arrays are contiguous and 1-D.

        `source` is what this rank puts in, `result` where what it gets goes: the same memory in
        all_reduce, broadcast and reduce; this rank's share in reduce_scatter and scatter; all rows
        in all_gather and gather. Where only the root has one of them, the other ranks' is a
        placeholder of the same length that is never touched.
        """

    def learn(self, call: Any, task: Task) -> Program:
        """What the root's scatter is, on all ranks: a Signature."""


class ErrorWait(Wait):
    """Wait for an error that has to come: a peer's loss, or a mismatch that all are told of."""

    why = "to hear which rank is in another call"
