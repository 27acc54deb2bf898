"""An array that remembers how it was made, and operations that know their own gradient.

An operation is one small class with `forward` and `backward` side by side. Calling an instance
on tensors runs `forward` and, where a gradient will be wanted, keeps the instance as the record
of what happened; `engine.backward` walks these records from the result to the leaves.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ringlet.nn.backend import asarray, refuse_mixture, to_host, xp

if TYPE_CHECKING:
    from ringlet.nn.autograd.engine import Deferred
    from ringlet.nn.autograd.methods import Methods
else:

    class Methods:
        """Empty here; ringlet.nn.autograd.methods fills Tensor, once there are operations."""

        __slots__ = ()


Array: TypeAlias = npt.NDArray[Any]
Gradient: TypeAlias = "Array | Deferred | None"
Operand: TypeAlias = "Tensor | Array | float | int"
_NUMBERS = (float, int)


class _Mode(threading.local):
    grad = True


_mode = _Mode()


@contextlib.contextmanager
def set_grad_enabled(mode: bool) -> Iterator[None]:
    """Within it operations are recorded, or not."""
    before, _mode.grad = _mode.grad, mode
    try:
        yield
    finally:
        _mode.grad = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Within it nothing is recorded: results need no gradient and hold no history."""
    return set_grad_enabled(False)


def enable_grad() -> contextlib.AbstractContextManager[None]:
    """Within it operations are recorded, also inside `no_grad()`."""
    return set_grad_enabled(True)


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return _mode.grad


class Source:
    """Where an operation's input came from. The input's array is not kept: an operation keeps
    what its backward needs."""

    __slots__ = ("dtype", "operation", "shape")

    def __init__(self, tensor: "Tensor") -> None:
        self.operation, data = tensor.operation, tensor.data
        self.shape, self.dtype = data.shape, data.dtype


_numbers = itertools.count(1)


class Operation:
    """One operation on arrays: `forward`, and the gradient of it.

    `forward` may keep what `backward` needs in attributes. `backward` takes the gradient of the
    result and returns one for each input: in the input's shape or one that it was broadcast to
    (the engine sums it back), or None. `needs[i]` says whether input i wants one.
    """

    inputs: "tuple[Tensor | Source, ...] | None" = None
    """Leaves, and the sources of other inputs."""

    needs: tuple[bool, ...] = ()

    number: int = 0
    """Operations are numbered in the order in which they ran; backward goes the other way."""

    def forward(self, *args: Any, **kwargs: Any) -> Array:
        """The result, from the inputs' arrays."""
        raise NotImplementedError

    def backward(self, grad: Array) -> Sequence[Gradient]:
        """The inputs' gradients, from the result's. `grad` must not be written to."""
        raise NotImplementedError

    def __call__(self, *inputs: "Tensor") -> "Tensor":
        """Run on tensors; the result remembers this operation if a gradient may be wanted."""
        grad = _mode.grad
        self.needs = needs = tuple([grad and t.requires_grad for t in inputs])
        arrays = [t.data for t in inputs]
        try:
            result = Tensor(self.forward(*arrays))
        except Exception:
            refuse_mixture(type(self).__name__, arrays)  # if that is why
            raise
        if True in needs:
            result.requires_grad = True
            result.operation = self
            self.number = next(_numbers)
            self.inputs = tuple([t if t.operation is None else Source(t) for t in inputs])
        return result

    def release(self) -> None:
        """Let go of every array that was kept for `backward`."""
        self.__dict__.clear()


class Tensor(Methods):
    """An n-dimensional array with an optional gradient; PyTorch's names and semantics.

    `data` is the array, `grad` the gradient after `backward()` (an array of the same shape and
    dtype, or None). Arithmetic stays in the dtype of the tensors; Python numbers take it. Both
    arrays are the backend's (see nn.use): on a device, from an array of the host a tensor is a
    copy there.
    """

    __slots__ = ("__weakref__", "_fresh", "_grad", "_hooks", "data", "operation", "requires_grad")

    is_parameter = False

    def __init__(self, data: npt.ArrayLike, requires_grad: bool = False) -> None:
        self.data: Array = data if isinstance(data, xp.ndarray) else asarray(data)
        if requires_grad and self.data.dtype.kind not in "fc":
            raise TypeError(f"only floating-point tensors have gradients, not {self.data.dtype}")
        self.requires_grad = requires_grad
        self.operation: Operation | None = None
        self._grad: Array | None = None
        self._fresh = False  # the gradient's memory is to be taken as zeros
        self._hooks: list[Callable[[Any], None]] | None = None

    # -- what it is ---------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's dtype."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of elements (PyTorch's `numel()`)."""
        return self.data.size

    def dim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self.data.size

    @property
    def is_leaf(self) -> bool:
        """Whether no operation was recorded for it."""
        return self.operation is None

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Say whether a gradient is wanted; only leaves can be told."""
        if self.operation is not None and not requires_grad:
            raise RuntimeError("only a leaf can give up its gradient; use detach()")
        if requires_grad and self.data.dtype.kind not in "fc":
            raise TypeError(f"only floating-point tensors have gradients, not {self.data.dtype}")
        self.requires_grad = requires_grad
        return self

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise RuntimeError(f"a tensor of shape {self.shape} is not one truth value")
        return bool(self.data.item())

    def __float__(self) -> float:
        return float(self.data.item())

    def __int__(self) -> int:
        return int(self.data.item())

    def __iter__(self) -> "Iterator[Tensor]":
        return iter(self.unbind())

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        body = np.array2string(to_host(self.data), prefix="tensor(", separator=", ", threshold=20)
        note = ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({body}, dtype={self.dtype}{note})"

    def item(self) -> Any:
        """The only element as a Python number."""
        return self.data.item()

    def tolist(self) -> Any:
        """The elements as Python numbers, in lists."""
        return self.data.tolist()

    def numpy(self) -> Array:
        """The array itself, not a copy; on a device a copy on the host."""
        return to_host(self.data)

    def detach(self) -> "Tensor":
        """The same array without history."""
        return Tensor(self.data)

    # -- gradients ----------------------------------------------------------------------------

    @property
    def grad(self) -> Array | None:
        """The accumulated gradient; None before the first `backward()`."""
        if self._fresh and self._grad is not None:
            self._grad.fill(0)
            self._fresh = False
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        self._grad, self._fresh = value, False

    def zero_grad(self) -> None:
        """Forget the gradient; its memory is kept for the next one."""
        self._fresh = self._grad is not None

    def bind_grad(self, memory: Array) -> None:
        """Take `memory` (same shape and dtype) for the gradient from now on, as zeros."""
        self._grad, self._fresh = memory, True

    def backward(self, gradient: Array | None = None) -> None:
        """Add the gradients of this tensor to all leaves that it was made from.

        `gradient` is that of the result with respect to this tensor, in its shape; it may be
        left out for a tensor of one element. The history is gone afterwards.
        """
        from ringlet.nn.autograd.engine import backward

        backward(self, gradient)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Any], None]) -> "HookHandle":
        """Call `hook(tensor)` in each `backward` once this leaf's gradient is final.

        Final means that the last of its consumers in that pass is done; a tied weight has more
        than one.
        """
        if self._hooks is None:
            self._hooks = []
        self._hooks.append(hook)
        return HookHandle(self._hooks, hook)

    def accumulate(self, gradient: "Array | Deferred") -> None:
        """Add to the gradient, or write it if there is none; used by the engine."""
        if self._grad is None:
            self._grad, self._fresh = xp.empty(self.shape, self.dtype), True
        if not isinstance(gradient, xp.ndarray):
            gradient.into(self._grad, add=not self._fresh)
        elif self._fresh:
            xp.copyto(self._grad, gradient)
        else:
            xp.add(self._grad, gradient, out=self._grad)
        self._fresh = False

    def fire_hooks(self) -> None:
        """Tell those who wait for the final gradient; used by the engine."""
        for hook in self._hooks or ():
            hook(self)

    # Operators and methods that are operations: see ringlet.nn.autograd.methods.
    __array_ufunc__ = None  # array + tensor is a tensor, not an array of tensors


class HookHandle:
    """Removes a hook again."""

    def __init__(self, hooks: list[Callable[[Any], None]], hook: Callable[[Any], None]) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        """Do not call the hook any more."""
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


def array_of(value: Any) -> Any:
    """The array of a tensor; anything else as it is."""
    return value.data if isinstance(value, Tensor) else value


def host_array(value: Any) -> Array:
    """What says where (ids, targets, indices), on the host, where it is checked.

    An array of the device has to be fetched, and the host waits for it.
    """
    array = array_of(value)
    return to_host(array) if isinstance(array, xp.ndarray) else np.asarray(array)


def operand_array(value: Any, other: Any = None) -> Any:
    """The same for what is computed with `other`; raises MixedArrays for one that is elsewhere."""
    if isinstance(value, Tensor):
        return value.data
    if not isinstance(value, xp.ndarray):
        refuse_mixture("an operation", (value, array_of(other)))  # a number is welcome
    return value


def mask_array(value: Any) -> Array:
    """A mask as an array of bool, wherever it comes from."""
    return asarray(array_of(value), bool)


def tensors(a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    """Both as tensors; a Python number takes the dtype of the tensor beside it."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a, b
    dtypes = [operand.dtype for operand in (a, b) if isinstance(operand, Tensor | xp.ndarray)]
    dtype = np.result_type(*dtypes) if dtypes else None
    return _tensor(a, b, dtype), _tensor(b, a, dtype)


def _tensor(operand: Operand, other: Operand, dtype: np.dtype[Any] | None) -> Tensor:
    if isinstance(operand, Tensor):
        return operand
    array = operand if isinstance(operand, _NUMBERS) else operand_array(operand, other)
    return Tensor(array if isinstance(array, xp.ndarray) else asarray(array, dtype))


def in_dtype(value: float, like: Array) -> Any:
    """A number in an array's dtype, so that it cannot widen the result; it stays on the host."""
    return like.dtype.type(value)
