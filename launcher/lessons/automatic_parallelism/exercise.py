"""Lesson 8: a small planner.

A mesh is {"dp": 2, "tp": 1, "pp": 4}: so many replicas, each of pp stages of tp ranks. All ranks
have the same links, numbers have 4 bytes, and blocks are equal.
"""

from collections.abc import Callable, Sequence

from ringlet.launcher.lessons.automatic_parallelism.job import Job

Mesh = dict[str, int]

# Of a Job: parameters (all in its blocks), blocks, heads, batch (samples over all ranks),
# micro_batches (of each replica), compute (seconds in which one rank alone would compute forward
# and backward of the batch), activation_bytes (of one sample between two blocks), and the links'
# latency (seconds) and bandwidth (bytes per second).


def meshes(job: Job, ranks: int) -> list[Mesh]:
    """All meshes of exactly so many ranks that fit the job, in any order.

    Replicas have equally many samples, each head is on one rank, each stage has at least one block.
    """
    raise NotImplementedError


def memory(job: Job, mesh: Mesh, zero: int) -> float:
    """Bytes of parameters, gradients and optimizer state on a rank.

    Adam keeps two numbers for each parameter. ZeRO's stage 1 divides the optimizer's state over the
    dp ranks, stage 2 the gradients too, stage 3 the parameters too; stage 0 nothing.
    """
    raise NotImplementedError


def seconds(job: Job, mesh: Mesh) -> float:
    """Seconds of a step, with nothing overlapped.

    Computing is divided evenly over all ranks. With tp ranks, each block all-reduces the
    activations of a micro-batch twice in forward and twice in backward. Stages take their turns as
    in 1F1B, with free messages. At the end the dp ranks all-reduce the gradients that they have.
    An all-reduce is a ring: 2 (n - 1) rounds, each of `latency` and 1/n of the bytes.
    """
    raise NotImplementedError


def choose(
    candidates: Sequence[Mesh],
    least: Callable[[Mesh], float],
    simulate: Callable[[Mesh], tuple[float, float]],
    limit: float,
) -> Mesh | None:
    """The fastest mesh that needs at most `limit` bytes on a rank; None if none fits.

    `simulate(mesh)` gives (seconds, bytes of a rank) and is slow. `least(mesh)` is fast: a bound
    below these seconds. Simulate no mesh twice, and none whose bound is above the seconds of the
    answer.
    """
    raise NotImplementedError
