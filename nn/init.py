"""Initial values, written into tensors in place, under PyTorch's names.

Values come from `generator`; without one, each call draws from the stream of
`nn.random.manual_seed`, as new layers do. `Module.initialize(seed)` and models depend on
(seed, name) instead.
"""

import math
from typing import Literal

import numpy as np

from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.random import next_generator
from ringlet.nn.versions import changed, write

FanMode = Literal["fan_in", "fan_out"]
Generator = np.random.Generator | None


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that preserves variance through a nonlinearity; `param` is leaky_relu's slope."""
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2)),
        "selu": 3 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(f"no gain is known for {nonlinearity!r}; known are {', '.join(gains)}")
    return gains[nonlinearity]


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One number everywhere."""
    tensor.data[...] = val
    changed(tensor.data)
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix (2 axes)."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_ needs a matrix; the tensor has shape {tensor.shape}")
    return _write(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator = None) -> Tensor:
    """Uniform from a to b."""
    draws = next_generator(generator).random(tensor.shape, np.float32)
    return _write(tensor, a + (b - a) * draws)


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator = None
) -> Tensor:
    """Normal."""
    draws = next_generator(generator).standard_normal(tensor.shape, np.float32)
    return _write(tensor, mean + std * draws)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator = None,
) -> Tensor:
    """Normal; values outside a to b are drawn again."""
    random = next_generator(generator)
    draws = mean + std * random.standard_normal(tensor.shape)
    for _ in range(1000):
        outside = (draws < a) | (draws > b)
        if not outside.any():
            return _write(tensor, draws)
        draws[outside] = mean + std * random.standard_normal(int(outside.sum()))
    raise ValueError(f"a normal of mean {mean} and deviation {std} is hardly ever in {a} to {b}")


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Uniform in +- gain sqrt(6 / (fan_in + fan_out)).

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks"
    (2010).
    """
    bound = gain * math.sqrt(6 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Normal with deviation gain sqrt(2 / (fan_in + fan_out)); see xavier_uniform_."""
    return normal_(tensor, 0, gain * math.sqrt(2 / sum(_fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
) -> Tensor:
    """Uniform in +- gain sqrt(3 / fan); `a` is the slope of leaky_relu.

    He, Zhang, Ren and Sun, "Delving deep into rectifiers" (2015).
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
) -> Tensor:
    """Normal with deviation gain / sqrt(fan); see kaiming_uniform_."""
    return normal_(tensor, 0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Orthogonal rows (or columns, whichever are fewer) of length `gain`.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks" (2014).
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ needs two axes; the tensor has shape {tensor.shape}")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    draws = next_generator(generator).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(draws)
    q *= np.sign(np.diag(r))
    return _write(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out): weights are (out, in, ...)."""
    if tensor.ndim < 2:
        raise ValueError(f"fans need two axes; the tensor has shape {tensor.shape}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _kaiming_std(tensor: Tensor, a: float, mode: FanMode, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is {mode!r}; it must be 'fan_in' or 'fan_out'")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def _write(tensor: Tensor, values: Array) -> Tensor:
    write(tensor.data, values)
    return tensor
