"""The norm of all gradients together, however they are sharded.

Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013).
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.flat import Flat
from ringlet.nn.optim.clipping import sums_of_squares


def squares(flat: Flat, numbers: Mapping[str, int], counted: Iterable[str], total: Array) -> None:
    """Add each counted parameter's sum of squares to its element of `total` (float64)."""
    names = set(counted)
    slots = [slot for slot in flat.slots if slot.name in names]
    parts = sums_of_squares([flat.views(slot.start, slot.stop)[1] for slot in slots])
    for slot, part in zip(slots, parts, strict=True):
        total[numbers[slot.name]] += part


def global_norm(total: Array, world: Group | None) -> float:
    """The 2-norm over all ranks (a collective), from each rank's sums of squares by parameter.

    Without a world this rank has all of them. Parameters are added in the order of the model, so
    the cut into stages changes no bit.
    """
    if world is not None:
        world.all_reduce(total, label="gradient norm")
    return math.sqrt(math.fsum(total))


def scale_gradients(flats: Sequence[Flat], factor: float) -> None:
    """Multiply all gradients by a factor."""
    for flat in flats:
        for start, stop in flat.segments:
            _, grad = flat.views(start, stop)
            grad *= factor
