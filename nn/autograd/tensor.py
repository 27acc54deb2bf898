"""An array that remembers how it was made, and operations that know their own gradient.

An operation is a small class with `forward` and `backward` side by side. Calling an instance on
tensors runs `forward` and, where a gradient will be needed, keeps the instance as the record of
what happened; `engine.backward` follows these records from the result back to the leaves.
"""

import builtins
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ringlet.nn.autograd.deferred import Deferred, Gradient, Gradients
from ringlet.nn.autograd.grad_mode import mode
from ringlet.nn.autograd.hooks import HookHandle
from ringlet.nn.autograd.promotion import OF_PYTHON, is_of_python
from ringlet.nn.autograd.sharing import Sharing
from ringlet.nn.autograd.source import UNNEEDED, Source
from ringlet.nn.backend import Array, Device, asarray, chosen, refuse_mixture, to_host, xp
from ringlet.nn.versions import numbers

__all__ = ["Array", "Gradient", "Operation", "Tensor", "View"]


class Operation:
    """An operation on arrays: `forward`, and its gradient.

    Subclasses name their inputs: `def forward(self, a, b)`. `forward` may keep what `backward`
    needs in attributes. `backward` takes the gradient of the result and returns one for each
    input: in the input's shape or one that it was broadcast to (the engine sums it back), or
    None. `needs[i]` says whether input i needs one.
    """

    inputs: "tuple[Tensor | Source, ...] | None" = None
    """Leaves that need gradients, and the sources of others; None once they are computed."""

    needs: tuple[bool, ...] = ()

    number: int = 0
    """Operations are numbered in the order in which they ran; backward goes the other way."""

    def forward(self, *args: Any, **kwargs: Any) -> Array:
        """The result, from the inputs' arrays."""
        raise NotImplementedError

    def backward(self, grad: Array) -> Gradients:
        """The inputs' gradients, from the result's. `grad` must not be written to."""
        raise NotImplementedError

    def __call__(self, *inputs: "Tensor") -> "Tensor":
        """Run on tensors; the result remembers this operation if a gradient may be needed."""
        grad = mode.grad
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
            self.number = next(numbers)
            self.inputs = tuple(
                [
                    Source(t) if t.operation is not None else t if t.requires_grad else UNNEEDED
                    for t in inputs
                ]
            )
        return result

    def saved(self) -> Any:
        """What `backward` computes with: it refuses to if an array in it was changed."""
        return {name: value for name, value in vars(self).items() if name != "inputs"}

    def release(self) -> None:
        """Drop every array that was kept for `backward`."""
        self.__dict__.clear()


class View(Operation):
    """An operation whose result may share its input's memory."""

    def __call__(self, *inputs: "Tensor") -> "Tensor":
        result = Operation.__call__(self, *inputs)
        result.join(inputs[0])
        return result


def placeholder(*args: Any, **kwargs: Any) -> "Tensor":
    """Stands in for an operation until nn/methods.py replaces it."""
    raise NotImplementedError


def any_placeholder(*args: Any, **kwargs: Any) -> Any:
    """The same, for what does not return one tensor."""
    raise NotImplementedError


class Tensor(Sharing):
    """An n-dimensional array with an optional gradient; PyTorch's names and semantics.

    `data` is the array, `grad` the gradient after `backward()` (an array of the same shape and
    dtype, or None). An array keeps its dtype; Python's floats, alone or in lists, are float32.
    Operands of several dtypes are promoted as promotion.py says. Both arrays are the backend's
    (see nn.use): on a device, a tensor made from a host array is a copy.
    What is written into `data` itself is not seen by a later `backward()`; see nn/versions.py.
    """

    __slots__ = (
        "__weakref__",
        "_bound",
        "_fresh",
        "_grad",
        "_hooks",
        "data",
        "operation",
        "requires_grad",
    )

    is_parameter = False

    def __init__(self, data: npt.ArrayLike, requires_grad: bool = False) -> None:
        self.data: Array = data if isinstance(data, xp.ndarray) else _array(data)
        if requires_grad and self.data.dtype.kind not in "fc":
            raise TypeError(f"only floating-point tensors have gradients, not {self.data.dtype}")
        self.requires_grad = requires_grad
        self.operation: Operation | None = None
        self._grad: Array | None = None
        self._fresh = False  # the gradient counts as zeros, whatever its memory holds
        self._bound = False  # and its memory is not its own
        self._hooks: tuple[Callable[[Any], None], ...] = ()
        self._sharers = None

    # -- properties ---------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's dtype."""
        return self.data.dtype

    @property
    def device(self) -> Device:
        """Where the array is: cpu, or cuda with the GPU's number."""
        return chosen().device

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one axis."""
        return self.data.shape if dim is None else self.data.shape[dim]

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
        """Set whether a gradient is needed; only a leaf can give it up."""
        if self.operation is not None and not requires_grad:
            raise RuntimeError("only a leaf can give up its gradient; use detach()")
        if requires_grad and self.data.dtype.kind not in "fc":
            raise TypeError(f"only floating-point tensors have gradients, not {self.data.dtype}")
        self.requires_grad = requires_grad
        return self

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise RuntimeError(f"the truth value of a tensor of shape {self.shape} is ambiguous")
        return bool(self.data.item())

    def __float__(self) -> builtins.float:
        return builtins.float(self.data.item())

    def __int__(self) -> int:
        return int(self.data.item())

    def __index__(self) -> int:
        if self.data.size != 1 or self.data.dtype.kind not in "iu":
            raise TypeError("only a tensor of one integer is an index of a list or a range")
        return int(self.data.item())

    def __format__(self, spec: str) -> str:
        return format(self.data.item(), spec) if not self.ndim else object.__format__(self, spec)

    def __iter__(self) -> "Iterator[Tensor]":
        if not self.data.ndim:
            raise TypeError("a 0-d tensor has no elements to go through")
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

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """What NumPy's functions compute with: the array, on the host."""
        array = to_host(self.data)
        return np.array(array, dtype) if copy else np.asarray(array, dtype)

    def detach(self) -> "Tensor":
        """The same array without history."""
        result = Tensor(self.data)
        result.join(self)
        return result

    # -- gradients ----------------------------------------------------------------------------

    backward = any_placeholder  # engine.backward

    @property
    def grad(self) -> Array | None:
        """The accumulated gradient; None before the first `backward()`."""
        if self._fresh and self._grad is not None:
            self._grad.fill(0)
            self._fresh = False
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        if value is not None and value.shape != self.data.shape:
            raise ValueError(f"a gradient of shape {value.shape} for a tensor of {self.shape}")
        if not self._bound:
            self._grad = value.data if isinstance(value, Tensor) else value
        elif self._grad is not None and value is not None:
            xp.copyto(self._grad, value)
        self._fresh = self._bound and value is None

    @property
    def has_grad(self) -> bool:
        """Whether a gradient was accumulated or set since the last `zero_grad()`."""
        return self._grad is not None and not self._fresh

    def zero_grad(self) -> None:
        """Forget the gradient: it is None; or zeros, in memory that it is bound to."""
        self.grad = None

    def bind_grad(self, memory: Array) -> None:
        """Use `memory` (same shape and dtype) for the gradient from now on; it counts as zeros."""
        self._grad, self._fresh, self._bound = memory, True, True

    def register_post_accumulate_grad_hook(self, hook: Callable[[Any], None]) -> "HookHandle":
        """Call `hook(tensor)` in each `backward` once this leaf's gradient is final.

        It is final when its last consumer in that pass is done; a tied weight has more than one.
        """
        return HookHandle(self, "_hooks", hook)

    def accumulate(self, gradient: Array | Deferred) -> None:
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
        """Run the hooks that wait for the final gradient; used by the engine."""
        for hook in self._hooks:
            hook(self)

    # -- operations, which nn/methods.py puts in place ---------------------------------

    __array_ufunc__ = None  # array + tensor is a tensor, not an array of tensors
    __hash__ = object.__hash__  # by identity: == compares element by element

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __matmul__ = placeholder
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __pow__ = __rpow__ = placeholder
    __mod__ = __rmod__ = __neg__ = __abs__ = __invert__ = __getitem__ = placeholder
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = placeholder
    __lt__ = __le__ = __gt__ = __ge__ = placeholder
    __eq__ = __ne__ = placeholder  # type: ignore[assignment]
    __setitem__ = any_placeholder

    add = sub = mul = div = pow = neg = abs = remainder = clamp = clip = placeholder
    maximum = minimum = exp = expm1 = log = log1p = log2 = log10 = sqrt = rsqrt = placeholder
    square = reciprocal = sin = cos = tanh = sigmoid = erf = relu = isclose = placeholder
    sign = floor = ceil = round = eq = ne = lt = le = gt = ge = isnan = isinf = placeholder
    logical_and = logical_or = logical_xor = logical_not = isfinite = outer = placeholder
    bitwise_and = bitwise_or = bitwise_xor = bitwise_not = placeholder
    matmul = mm = bmm = dot = sum = mean = var = std = prod = norm = amax = amin = placeholder
    cumsum = cumprod = logsumexp = softmax = log_softmax = argsort = all = any = placeholder
    argmax = argmin = multinomial = placeholder
    allclose = equal = is_floating_point = max = min = sort = topk = nonzero = any_placeholder

    reshape = view = flatten = transpose = swapaxes = permute = movedim = t = placeholder
    squeeze = unsqueeze = expand = repeat = repeat_interleave = flip = roll = placeholder
    index_fill = narrow = select = gather = scatter = scatter_add = index_select = placeholder
    masked_select = masked_fill = tril = triu = clone = contiguous = placeholder
    split = chunk = unbind = any_placeholder
    expand_as = view_as = placeholder
    to = type = type_as = float = double = half = long = int = bool = cpu = cuda = placeholder
    new_zeros = new_ones = new_empty = new_full = new_tensor = placeholder

    @property
    def T(self) -> "Tensor":
        """With the axes in reverse order."""
        return self.permute(*range(self.ndim)[::-1])

    @property
    def mT(self) -> "Tensor":
        """With the last two axes swapped."""
        return self.transpose(-2, -1)


def _array(data: Any) -> Array:
    """The array of a tensor, or one of numbers; raises TypeError for what is none."""
    array = data.data if isinstance(data, Tensor) else asarray(data)
    if array.dtype in OF_PYTHON and is_of_python(data):
        array = asarray(array, OF_PYTHON[array.dtype])
    if array.dtype.kind not in "biufcV":
        raise TypeError(f"a tensor holds numbers, not {array.dtype} (from {type(data).__name__})")
    return array
