"""What the student plans for, and what the project says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ringlet.comm.schedules.algorithms import schedule
from ringlet.comm.schedules.price import LinkCost, Network, price
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.price import price as price_pipeline
from ringlet.runtime.pipeline.schedules import known_schedule
from ringlet.runtime.planning.footprint import states
from ringlet.runtime.planning.setting import FLOAT32


@dataclass(frozen=True)
class Job:
    """A model, a batch, and the links between ranks."""

    parameters: int
    """Numbers in the model, all of them in its blocks."""

    blocks: int
    heads: int
    batch: int
    """Samples of a step, over all ranks."""

    micro_batches: int
    """Of each replica."""

    compute: float
    """Seconds in which one rank alone would compute forward and backward of the whole batch."""

    activation_bytes: int
    """Bytes of one sample between two blocks."""

    latency: float
    bandwidth: float
    """Seconds and bytes per second of a message between any two ranks."""


class Expected(NamedTuple):
    """Parts of a step."""

    turn: float
    """Seconds of a micro-batch in a stage, forward and backward."""

    all_reduce: float
    """Seconds of each sum of its activations."""

    pipeline: float
    sums: float
    """Seconds to sum the gradients."""

    @property
    def seconds(self) -> float:
        """Of all."""
        return self.pipeline + self.sums


def all_reduce(job: Job, ranks: int, nbytes: float) -> float:
    """Seconds of a ring."""
    network = Network.uniform(LinkCost(job.latency, job.bandwidth))
    return price(schedule("all_reduce", "ring", ranks), network, nbytes).seconds


def expected(job: Job, mesh: Mapping[str, int]) -> Expected:
    """What a step takes, by the prices of collectives and of 1F1B."""
    dp, tp, pp = (mesh[axis] for axis in ("dp", "tp", "pp"))
    m = job.micro_batches
    samples = job.batch / (dp * m)
    turn = job.compute / (dp * tp * pp * m)
    once = all_reduce(job, tp, samples * job.activation_bytes)
    turn += 4 * job.blocks / pp * once
    made = known_schedule("1f1b", pp, m, 1)
    pipeline = price_pipeline(made, Costs(turn / 3, turn / 3, turn / 3)).makespan
    return Expected(turn, once, pipeline, all_reduce(job, dp, 4 * job.parameters / (tp * pp)))


def states_of(job: Job, mesh: Mapping[str, int], zero: int) -> tuple[float, float, float]:
    """Bytes of parameters, gradients and optimizer state of a rank."""
    return states(job.parameters / (mesh["tp"] * mesh["pp"]), mesh["dp"], zero, FLOAT32)
