"""See the fake cupy beside it."""

import numpy as np
from cupy import counts


def empty_pinned(shape, dtype=float, order="C"):
    """Memory of the host."""
    counts["pinned"] += 1
    return np.empty(shape, dtype, order)
