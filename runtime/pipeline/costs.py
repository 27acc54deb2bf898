"""What a pipeline's actions and messages cost, in seconds or any other unit of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ringlet.runtime.pipeline.actions import Action

Seconds: TypeAlias = float | Sequence[float]
"""The same everywhere, or one for each stage (of a message: for each border between stages)."""


@dataclass(frozen=True)
class Costs:
    """Seconds for each kind of action. A whole backward takes `inputs` + `weights`.

    These are numbers, or sequences by stage; a stage is a chunk of a rank. A message of either kind
    between stages s and s + 1 occupies its link for `transfer` seconds, and arrives `latency`
    seconds later; of these, sequences have an element for each s but the last.
    """

    forward: Seconds = 1
    inputs: Seconds = 1
    weights: Seconds = 1
    transfer: Seconds = 0
    latency: Seconds = 0

    def of(self, action: Action) -> float:
        """Seconds for F, B, I or W."""
        forward, inputs, weights = (
            at(cost, action.stage) for cost in (self.forward, self.inputs, self.weights)
        )
        return {"F": forward, "B": inputs + weights, "I": inputs, "W": weights}[action.kind]

    def message(self, border: int) -> tuple[float, float]:
        """(transfer, latency) of a message between the stages `border` and `border` + 1."""
        return at(self.transfer, border), at(self.latency, border)

    @property
    def has_messages(self) -> bool:
        """Whether any message takes time."""
        return any(
            any(cost) if isinstance(cost, Sequence) else cost
            for cost in (self.transfer, self.latency)
        )

    def check(self, stages: int) -> None:
        """Raise ValueError unless these are costs of so many stages."""
        for name, cost in vars(self).items():
            needed, what = stages, "stages"
            if name in ("transfer", "latency"):
                needed, what = stages - 1, "borders between stages"
            if isinstance(cost, Sequence) and len(cost) != needed:
                raise ValueError(f"{name} has {len(cost)} numbers for {needed} {what}")


UNIT = Costs()
"""Every F, I and W takes 1, so a whole backward takes 2; transfers take nothing."""


def at(cost: Seconds, place: int) -> float:
    """The cost of one stage, or at one border."""
    return cost[place] if isinstance(cost, Sequence) else cost
