"""What a run says when its numbers are no longer finite: where it began."""

import numpy as np

from ringlet.comm import Group
from ringlet.nn import FlatParameters


class NonFinite(ArithmeticError):
    """A step gave a loss, gradient or weight that is not a finite number; it was not saved."""


def blame(world: Group, flat: FlatParameters) -> str:
    """Which parameter is to blame, the same words on all ranks (a collective).

    One rank's memory may be wrong where the others' is right, and the sum of gradients spoils
    all of them: so every rank is heard, and a bad value counts for more than a bad gradient.
    """
    found = world.all_gather_object([_bad_value(flat), _bad_gradient(flat)])
    for rank, (value, _) in enumerate(found):
        if value:
            return f"{value} holds a value that is not finite (rank {rank})"
    for _, gradient in found:
        if gradient:
            return f"the first gradient of backward that is not finite is {gradient}'s"
    return "every parameter and gradient is finite for itself: a sum overflowed"


def _bad_value(flat: FlatParameters) -> str | None:
    """The first parameter that holds a value that is not finite."""
    for slot in flat.slots:
        if not np.isfinite(flat.data[slot.start : slot.stop]).all():
            return slot.name
    return None


def _bad_gradient(flat: FlatParameters) -> str | None:
    """The parameter nearest to the loss whose gradient is not finite."""
    grad = flat.grad
    for slot in reversed(flat.slots):
        if not np.isfinite(grad[slot.start : slot.stop]).all():
            return slot.name
    return None
