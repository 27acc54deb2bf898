"""`ringlet explain ...`: collectives, pipeline schedules, and the topics of a training step."""

from typing import Any

from ringlet.comm.schedules.algorithms import ALGORITHMS
from ringlet.launcher.commands.explain.block import sequence, tensor
from ringlet.launcher.commands.explain.collective import OPERATIONS, collective
from ringlet.launcher.commands.explain.compression import compression
from ringlet.launcher.commands.explain.context import context
from ringlet.launcher.commands.explain.experts import experts
from ringlet.launcher.commands.explain.memory import memory, plan
from ringlet.launcher.commands.explain.overlap import overlap
from ringlet.launcher.commands.explain.pipeline import pipeline
from ringlet.launcher.commands.explain.zero import accumulation, zero
from ringlet.launcher.commands.options import Group
from ringlet.launcher.errors import UserError

TOPICS = (
    collective, pipeline, tensor, sequence, context, experts, zero, accumulation, compression,
    overlap, memory, plan,
)  # fmt: skip


class CollectiveByDefault(Group):
    """A group that takes an unknown first word for a collective: `ringlet explain all-reduce`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in ("--help", *self.commands):
            if args[0][:1] != "-" and args[0].replace("-", "_") not in ALGORITHMS:
                raise UserError(
                    f"unknown operation {args[0]!r}; there are {OPERATIONS}; and other topics: "
                    f"{', '.join(self.commands)}"
                )
            args = ["collective", *args]
        return super().parse_args(ctx, args or ["--help"])


explain = CollectiveByDefault(
    "explain",
    help="Draw what a run does, from the code that does it.\n\nExplain a collective (`ringlet "
    "explain all-reduce`), a pipeline schedule (`ringlet explain pipeline`) or another topic; each "
    "has its own --help. With --svg FILE it is a picture.",
    commands=TOPICS,
)
