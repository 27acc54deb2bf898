"""What the ranks of a pipeline do: a schedule is, for each rank, a list of actions.

A model is cut into ranks * chunks stages. By default stage s is on rank s % ranks, so with several
chunks a micro-batch goes round the ranks more than once (Narayanan et al., "Efficient large-scale
language model training on GPU clusters using Megatron-LM", 2021, section 2.2). A placement can say
otherwise: in a V (Qi et al., 2024) the second half of the stages goes back over the ranks, so the
first and the last stage are on one rank.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from ringlet.comm.schedules.svg import counted

COMPUTE, TRANSFERS = ("F", "B", "I", "W"), ("SEND_F", "RECV_F", "SEND_B", "RECV_B")


class Action(NamedTuple):
    """One thing that a rank does for one micro-batch.

    | kind | |
    |---|---|
    | F | forward |
    | B | backward, whole |
    | I | backward to the inputs only |
    | W | backward to the weights only, after the I of the same stage and micro-batch |
    | SEND_F, RECV_F | send activations from stage s, receive them for stage s + 1 |
    | SEND_B, RECV_B | send gradients from stage s, receive them for stage s - 1 |

    In a SEND, `stage` is the one that made the data; in a RECV, the one that needs it.
    """

    kind: str
    stage: int
    micro_batch: int

    def __repr__(self) -> str:
        return f"{self.kind}{self.stage}.{self.micro_batch}"

    @property
    def other_end(self) -> "Action":
        """The receive of this send, or the send of this receive."""
        way, what = self.kind.split("_")
        step = 1 if (way == "SEND") == (what == "F") else -1
        return Action(f"{'RECV' if way == 'SEND' else 'SEND'}_{what}", self.stage + step, self[2])

    def transfer(self, way: str, stages: int) -> "Action | None":
        """The RECV of what F, B or I needs from another stage, or the SEND of what it makes for
        one; None if there is none."""
        if self.kind == "W":
            return None
        transfer = self._replace(kind=f"{way}_{'F' if self.kind == 'F' else 'B'}")
        return transfer if 0 <= transfer.other_end.stage < stages else None


Queues: TypeAlias = "defaultdict[tuple[int, int, str] | None, deque[Action]]"
"""By queue, the receives of what is sent there, in order."""


@dataclass(frozen=True)
class PipelineSchedule:
    """Which rank computes what in which order: `compute[rank]` holds F, B, I and W.

    `placement` has the rank of every stage, `chunks` for each rank; empty: stage s is on rank
    s % ranks.
    """

    name: str
    ranks: int
    chunks: int
    micro_batches: int
    compute: tuple[tuple[Action, ...], ...]
    placement: tuple[int, ...] = ()

    @property
    def splits(self) -> bool:
        """Whether backwards are in two parts."""
        return any(action.kind == "W" for actions in self.compute for action in actions)

    @property
    def stages(self) -> int:
        """How many parts the model is cut into."""
        return self.ranks * self.chunks

    @cached_property
    def programs(self) -> tuple[tuple[Action, ...], ...]:
        """`compute` with the transfers that it needs: what each rank executes.

        A send follows the action that makes its data at once. A receive stands right before the
        action that needs it. Messages of one queue are received in the order in which they are
        sent: where an action needs one that is behind others, those are received first; they were
        sent earlier, so this waits no longer. Stages on one rank hand over without a transfer.
        """
        queues: Queues = defaultdict(deque)
        for rank, actions in enumerate(self.compute):
            for action in actions:
                if send := self.transfer(action, "SEND"):
                    queues[self.queue(rank, send)].append(send.other_end)
        return tuple(
            tuple(self._with_transfers(rank, actions, queues))
            for rank, actions in enumerate(self.compute)
        )

    def _with_transfers(
        self, rank: int, actions: tuple[Action, ...], queues: Queues
    ) -> Iterator[Action]:
        received: set[Action] = set()
        for action in actions:
            if needed := self.transfer(action, "RECV"):
                arriving = queues[self.queue(rank, needed)]
                while arriving and needed not in received:
                    received.add(arriving[0])
                    yield arriving.popleft()
            yield action
            if send := self.transfer(action, "SEND"):
                yield send

    def transfer(self, action: Action, way: str) -> Action | None:
        """The RECV of what an action needs from another rank, or the SEND of what it makes for
        one; None if there is none."""
        transfer = action.transfer(way, self.stages)
        return transfer if transfer and not self.is_local(transfer) else None

    def is_local(self, transfer: Action) -> bool:
        """Whether both ends are on one rank, which hands over without a message."""
        return self.rank_of(transfer.stage) == self.peer(transfer)

    def queue(self, rank: int, action: Action) -> tuple[int, int, str] | None:
        """(sender, receiver, F or B) of a transfer; None for what is computed."""
        if action.kind in COMPUTE:
            return None
        way, what = action.kind.split("_")
        peer = self.peer(action)
        return (rank, peer, what) if way == "SEND" else (peer, rank, what)

    def rank_of(self, stage: int) -> int:
        """Where the stage is."""
        return self.placement[stage] if self.placement else stage % self.ranks

    def chunk_of(self, stage: int) -> int:
        """Which of its rank's stages it is: 0 .. chunks - 1."""
        if not self.placement:
            return stage // self.ranks
        return self.placement[:stage].count(self.placement[stage])

    def stages_of(self, rank: int) -> list[int]:
        """The stages on a rank, in order."""
        return [stage for stage in range(self.stages) if self.rank_of(stage) == rank]

    def peer(self, transfer: Action) -> int:
        """The rank at the other end of a send or a receive."""
        return self.rank_of(transfer.other_end.stage)

    def __str__(self) -> str:
        ranks, chunks = counted(self.ranks, "rank"), f" x {self.chunks} chunks"
        micro_batches = counted(self.micro_batches, "micro-batch", "es")
        return f"{self.name} of {ranks}{chunks if self.chunks > 1 else ''}, {micro_batches}"
