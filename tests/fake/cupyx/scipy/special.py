"""See the fake cupy."""

import math

import cupy
import numpy as np

_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x):
    """The error function."""
    assert isinstance(x, cupy.ndarray)
    return cupy.ndarray(np.asarray(_erf(x.memory), x.dtype))
