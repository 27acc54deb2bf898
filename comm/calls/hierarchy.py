"""Several ranks on each of several hosts: shared memory on the host, messages between hosts."""

from collections.abc import Sequence

from ringlet.comm.arrays import Array, parts
from ringlet.comm.protocols import Program, Task
from ringlet.comm.schedules.algorithms.hierarchical import INSIDE, PHASES
from ringlet.comm.shared.transport import SharedMemory
from ringlet.comm.sockets.messages import MessageCall
from ringlet.comm.sockets.transport import Sockets


class Hierarchy(Sockets):
    """The transport of a group whose ranks share memory on each host.

    The phases of the algorithm `hierarchical` run `inside` the host on shared memory, and `across`
    the hosts among the ranks of the same place. All else is messages.
    """

    def __init__(self, sockets: Sockets, inside: SharedMemory, across: Sockets) -> None:
        super().__init__(sockets.endpoint, sockets.group, sockets.ranks, sockets.choice)
        self.segment_bytes = sockets.segment_bytes
        self.across = across
        self._inside = inside

    def take(
        self, call: MessageCall, task: Task, memory: Sequence[Array | None], name: str
    ) -> Program:
        """The algorithm of this name."""
        data = memory[0]
        if name != "hierarchical" or data is None or not self._inside.takes(data.itemsize):
            yield from super().take(call, task, memory, name)
            return
        if task.prepared is None:
            op = "sum" if task.op == "mean" else task.op
            gather = Task("all_gather_shards")
            task.prepared = {
                operation: gather if operation == "all_gather" else Task(operation, op)
                for operation, _ in PHASES
            }
        control = self._inside.control
        shard = parts(data, control.size)[control.rank]
        for operation, level in PHASES:
            phase = task.prepared[operation]
            if level != INSIDE:
                yield from self.across.run(call, phase, shard, shard)
            else:
                yield from self._inside.run(call, phase, data, shard if phase.op else data)
