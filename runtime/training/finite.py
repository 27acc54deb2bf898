"""What a run says when its numbers are no longer finite: where it began."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import xp
from ringlet.nn.flat import Flat, Slot
from ringlet.nn.optim import Optimizer


class NonFinite(ArithmeticError):
    """A step gave a loss, gradient or weight that is not a finite number; it was not saved."""


def blame(world: Group, flats: Sequence[Flat], numbers: Mapping[str, int]) -> str:
    """Which parameter is to blame, the same words on all ranks (a collective).

    One rank's memory may be wrong where the others' is right, and the sum of gradients spoils
    all of them: so every rank is heard, and a bad value counts for more than a bad gradient.
    `numbers` are the parameters' places in the model.
    """
    values = _bad(flats, lambda flat, slot: flat.views(slot.start, slot.stop)[0])
    gradients = _bad(flats, lambda flat, slot: flat.views(slot.start, slot.stop)[1])
    found = world.all_gather_object([values, gradients])
    bad_values = [
        (numbers[name], rank, name) for rank, (bad, _) in enumerate(found) for name in bad
    ]
    if bad_values:
        _, rank, name = min(bad_values)
        return f"{name} holds a value that is not finite (rank {rank})"
    bad_gradients = [name for _, bad in found for name in bad]
    if bad_gradients:
        nearest = max(bad_gradients, key=numbers.__getitem__)  # to the loss
        return f"the first gradient of backward that is not finite is {nearest}'s"
    return "every parameter and gradient is finite for itself: a sum overflowed"


def _bad(flats: Sequence[Flat], view: Callable[[Flat, Slot], Array]) -> list[str]:
    return [
        slot.name
        for flat in flats
        for slot in flat.slots
        if not xp.isfinite(view(flat, slot)).all()
    ]


def all_finite(world: Group, flats: Iterable[Flat], optimizers: Iterable[Optimizer]) -> bool:
    """Whether all that a checkpoint would hold is finite, on every rank (a collective)."""
    arrays = [flat.views(start, stop)[0] for flat in flats for start, stop in flat.segments]
    arrays += [state for optimizer in optimizers for state in optimizer.state.values()]
    bad = np.array([not all(xp.isfinite(array).all() for array in arrays)], np.int8)
    world.all_reduce(bad, op="max", label="finite")
    return not bad[0]
