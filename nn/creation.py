"""New tensors under PyTorch's names: zeros(2, 3), arange(5), randn(2, 3), tensor([1, 2]), ...

Lengths are given one by one or as one sequence. Floating-point tensors are float32 unless `dtype`
says otherwise. `device` must be the backend's (nn.use). Random numbers come from `generator`, a
NumPy generator, or from the stream of `nn.random.manual_seed`; they are drawn on the host.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import array_of, only_floats, size_of, tensor_of
from ringlet.nn.autograd.promotion import FLOAT
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray, check_device, xp
from ringlet.nn.random import next_generator

__all__ = [
    "arange", "as_tensor", "empty", "empty_like", "eye", "from_numpy", "full", "full_like",
    "linspace", "multinomial", "normal", "ones", "ones_like", "rand", "rand_like", "randint",
    "randn", "randn_like", "randperm", "tensor", "zeros", "zeros_like",
]  # fmt: skip

Random = np.random.Generator | None
INTEGER = np.dtype(np.int64)


def _made(array: Any, dtype: Any, device: Any = None, requires_grad: bool = False) -> Tensor:
    check_device(device)
    return Tensor(asarray(array, dtype), requires_grad)


def _shape(lengths: tuple[Any, ...], size: Any) -> tuple[int, ...]:
    """The lengths, given one by one, as a sequence or by the name `size`."""
    given = lengths if size is None else (size,)
    if len(given) == 1 and isinstance(given[0], Iterable):
        given = tuple(given[0])
    return tuple(size_of(int(length), "a length") for length in given)


def _filled(name: str, meaning: str, fill: Callable[[Any, Any], Array]) -> Any:
    def function(
        *lengths: Any, size: Any = None, dtype: Any = None, device: Any = None,
        requires_grad: bool = False,
    ) -> Tensor:  # fmt: skip
        dtype = FLOAT if dtype is None else dtype
        return _made(fill(_shape(lengths, size), dtype), dtype, device, requires_grad)

    function.__name__, function.__doc__ = name, f"{meaning} of a shape; float32 by default."
    return function


zeros = _filled("zeros", "Zeros", lambda shape, dtype: xp.zeros(shape, dtype))
ones = _filled("ones", "Ones", lambda shape, dtype: xp.ones(shape, dtype))
empty = _filled("empty", "Elements that are not set,", lambda shape, dtype: xp.empty(shape, dtype))


def _drawn(name: str, meaning: str, draw: Callable[[np.random.Generator, Any], Array]) -> Any:
    def function(
        *lengths: Any, size: Any = None, generator: Random = None, dtype: Any = None,
        device: Any = None, requires_grad: bool = False,
    ) -> Tensor:  # fmt: skip
        numbers = draw(next_generator(generator), _shape(lengths, size))
        return _made(numbers, FLOAT if dtype is None else dtype, device, requires_grad)

    function.__name__, function.__doc__ = name, f"{meaning}, of a shape; float32 by default."
    return function


rand = _drawn("rand", "Uniform from 0 to 1", lambda draws, shape: draws.random(shape, np.float32))
randn = _drawn(
    "randn", "Standard normal", lambda draws, shape: draws.standard_normal(shape, np.float32)
)


def _like(function: Any) -> Callable[..., Tensor]:
    def like(input: Tensor, *args: Any, dtype: Any = None, **options: Any) -> Tensor:
        return function(
            input.shape, *args, dtype=input.dtype if dtype is None else dtype, **options
        )

    like.__name__ = f"{function.__name__}_like"
    like.__doc__ = f"`{function.__name__}` in another tensor's shape and dtype."
    return like


def full(
    size: Any,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """One number everywhere; its dtype by default (float32 for Python's floats)."""
    dtype = tensor(fill_value).dtype if dtype is None else dtype
    made = xp.full(_shape((), size), array_of(fill_value), dtype)
    return _made(made, dtype, device, requires_grad)


zeros_like, ones_like, empty_like = _like(zeros), _like(ones), _like(empty)
rand_like, randn_like, full_like = _like(rand), _like(randn), _like(full)


def _new(function: Any) -> Callable[..., Tensor]:
    def new(input: Tensor, *args: Any, dtype: Any = None, **options: Any) -> Tensor:
        return function(*args, dtype=input.dtype if dtype is None else dtype, **options)

    new.__name__ = f"new_{function.__name__}"
    new.__doc__ = f"`{function.__name__}` in this tensor's dtype."
    return new


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The identity matrix (n, m); m is n by default."""
    return _made(xp.eye(n, m), FLOAT if dtype is None else dtype, device)


def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers from `start` (0 if it is the only one) to before `end`; int64 if all three are
    integers."""
    start, end = (0, start) if end is None else (start, end)
    start, end, step = (_number(x, dtype) for x in (start, end, step))
    if not step or (end - start) / step < 0:
        raise ValueError(f"steps of {step} do not lead from {start} to {end}")
    if dtype is None:
        whole = all(isinstance(x, int) for x in (start, end, step))
        dtype = INTEGER if whole else FLOAT
    numbers = start + step * np.arange(math.ceil((end - start) / step))
    return _made(numbers, dtype, device, requires_grad)


def _number(x: Any, dtype: Any) -> Any:
    """A number of Python's or of a 0-d tensor, in whole if the dtype is one of integers."""
    if isinstance(x, Tensor):
        if x.ndim:
            raise ValueError(f"a bound is a number or a 0-d tensor, not of shape {x.shape}")
        x = x.item()
    return int(x) if dtype is not None and np.dtype(dtype).kind in "iu" else x


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None
) -> Tensor:
    """`steps` numbers from `start` to `end`, equally far apart."""
    start, end = _number(start, dtype), _number(end, dtype)
    numbers = np.linspace(start, end, size_of(steps, "the number of steps"))
    return _made(numbers, FLOAT if dtype is None else dtype, device)


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A copy of numbers, lists of such, an array or a tensor."""
    made = Tensor(data).data
    return _made(made.astype(made.dtype if dtype is None else dtype), None, device, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """As `tensor`, but of the same memory where that is possible; a tensor keeps its history."""
    return tensor_of(data).to(device=device, dtype=dtype)


def from_numpy(ndarray: Array) -> Tensor:
    """A tensor of an array's memory; on a device a copy."""
    return Tensor(ndarray)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Random = None,
    dtype: Any = INTEGER,
    device: Any = None,
) -> Tensor:
    """Integers from `low` to below `high`; from 0 if one bound is given: randint(9, (2, 3))."""
    if size is None:
        low, high, size = 0, low, high
    return _made(next_generator(generator).integers(low, high, _shape((), size)), dtype, device)


def randperm(
    n: int, *, generator: Random = None, dtype: Any = INTEGER, device: Any = None
) -> Tensor:
    """The integers below n in random order."""
    return _made(next_generator(generator).permutation(n), dtype, device)


def normal(
    mean: Any, std: Any = 1.0, size: Any = None, *, generator: Random = None, dtype: Any = None
) -> Tensor:
    """Normal numbers of a shape, or with each mean and deviation of two tensors."""
    shape = np.broadcast_shapes(np.shape(mean), np.shape(std)) if size is None else _shape((), size)
    return randn(shape, generator=generator, dtype=dtype) * std + mean


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Random = None
) -> Tensor:
    """Indices (..., num_samples) drawn with probabilities in proportion to weights (..., C).

    Without replacement no index is drawn twice. Raises ValueError for weights that are negative or
    not finite, or where fewer than what is drawn are above 0.
    """
    only_floats("multinomial", input)
    weights = input.numpy().astype(np.float64)
    if weights.ndim not in (1, 2):
        raise ValueError(f"weights have 1 or 2 axes, not {weights.ndim}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights are negative or not finite")
    size_of(num_samples, "num_samples", 1)
    least = 1 if replacement else num_samples
    if ((weights > 0).sum(-1) < least).any():
        raise ValueError(f"{num_samples} cannot be drawn: too few weights are above 0")
    draws = next_generator(generator)
    if replacement:
        ends = weights.reshape(-1, weights.shape[-1]).cumsum(-1)
        points = draws.random((len(ends), num_samples)) * np.nextafter(ends[:, -1:], 0)
        rows = zip(ends, points, strict=True)
        found = np.stack([np.searchsorted(own, at, "right") for own, at in rows])
        return _made(found.reshape(*weights.shape[:-1], num_samples), INTEGER)
    # The largest of log(weight) + Gumbel noise are a sample without replacement.
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + draws.gumbel(size=weights.shape)
    return _made(np.argsort(-keys, axis=-1)[..., :num_samples], INTEGER)


METHODS = {
    "multinomial": multinomial,
    **{f"new_{make.__name__}": _new(make) for make in (zeros, ones, empty, full, tensor)},
}
"""What is a method of tensors too."""
