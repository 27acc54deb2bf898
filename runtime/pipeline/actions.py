"""What the ranks of a pipeline do: a schedule is, for each rank, a list of actions.

A model is cut into ranks * chunks stages. Stage s is on rank s % ranks, so that with several
chunks the layers go round the ranks more than once (Narayanan et al., "Efficient large-scale
language model training on GPU clusters using Megatron-LM", 2021, section 2.2).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from ringlet.runtime.pipeline.transfers import insert_transfers


class Action(NamedTuple):
    """One thing that a rank does for one micro-batch.

    | kind | |
    |---|---|
    | F | forward |
    | B | backward, whole |
    | I | backward to the inputs only |
    | W | backward to the weights only, after the I of the same stage and micro-batch |
    | SEND_F, RECV_F | activations leave the stage that makes them, reach the one that needs them |
    | SEND_B, RECV_B | gradients, likewise |

    In SEND, `stage` is the one that made what is sent; in RECV, the one that needs it.
    """

    kind: str
    stage: int
    micro_batch: int

    def __repr__(self) -> str:
        return f"{self.kind}{self.stage}.{self.micro_batch}"

    @property
    def other_end(self) -> "Action":
        """The receive that belongs to this send, or the send that belongs to this receive.

        Activations go from stage s to s + 1, gradients from s to s - 1.
        """
        way, what = self.kind.split("_")
        step = 1 if (way == "SEND") == (what == "F") else -1
        return Action(f"{'RECV' if way == 'SEND' else 'SEND'}_{what}", self.stage + step, self[2])

    def needs(self, stages: int) -> "Action | None":
        """The receive of what another stage has to give to F, B or I; None: nothing."""
        if self.kind == "F" and self.stage > 0:
            return self._replace(kind="RECV_F")
        if self.kind in ("B", "I") and self.stage < stages - 1:
            return self._replace(kind="RECV_B")
        return None

    def gives(self, stages: int) -> "Action | None":
        """The send of what F, B or I makes for another stage; None: nothing."""
        if self.kind == "F" and self.stage < stages - 1:
            return self._replace(kind="SEND_F")
        if self.kind in ("B", "I") and self.stage > 0:
            return self._replace(kind="SEND_B")
        return None


Program: TypeAlias = tuple[Action, ...]
"""What one rank does, in this order."""


@dataclass(frozen=True)
class PipelineSchedule:
    """Which rank computes what in which order: `compute[rank]` holds F, B, I and W."""

    name: str
    ranks: int
    chunks: int
    micro_batches: int
    compute: tuple[Program, ...]

    @property
    def stages(self) -> int:
        """How many parts the model is cut into."""
        return self.ranks * self.chunks

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """`compute` with transfers: what each rank executes. Receives wait, sends do not."""
        return insert_transfers(self.compute, self.stages)

    def rank_of(self, stage: int) -> int:
        """Where the stage is."""
        return stage % self.ranks

    def chunk_of(self, stage: int) -> int:
        """Which of its rank's stages it is: 0 .. chunks - 1."""
        return stage // self.ranks

    def peer(self, transfer: Action) -> int:
        """The rank at the other end of a send or a receive."""
        return self.rank_of(transfer.other_end.stage)

    def __str__(self) -> str:
        ranks = f"{self.ranks} rank" + ("s" if self.ranks > 1 else "")
        chunks = f" x {self.chunks} chunks" if self.chunks > 1 else ""
        micro_batches = f"{self.micro_batches} micro-batch" + (
            "es" if self.micro_batches > 1 else ""
        )
        return f"{self.name} of {ranks}{chunks}, {micro_batches}"
