"""Matrix products. BLAS takes plain and transposed operands without copying them."""

import math

from ringlet.nn.autograd.conversion import of_one_dtype, only_numbers
from ringlet.nn.autograd.deferred import Gradients, Product
from ringlet.nn.autograd.operations.arithmetic import mul
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, xp

__all__ = ["bmm", "dot", "linear", "matmul", "mm", "outer"]


class MatMul(Operation):
    """a @ b with broadcasting over the leading axes; vectors as in NumPy."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
            raise ValueError(f"shapes {a.shape} and {b.shape} do not match as a matrix product")
        return xp.asarray(xp.matmul(a, b))

    def backward(self, grad: Array) -> Gradients:
        a, b = self.a, self.b
        if a.ndim == 1 and b.ndim == 1:
            return grad * b, grad * a
        if a.ndim == 1:  # (k,) @ (..., k, n) -> (..., n)
            return (
                xp.matmul(b, grad[..., None])[..., 0],
                a[:, None] * grad[..., None, :],
            )
        if b.ndim == 1:  # (..., m, k) @ (k,) -> (..., m)
            return (
                grad[..., None] * b,
                xp.matmul(xp.swapaxes(a, -1, -2), grad[..., None])[..., 0],
            )
        return (
            xp.matmul(grad, xp.swapaxes(b, -1, -2)) if self.needs[0] else None,
            xp.matmul(xp.swapaxes(a, -1, -2), grad) if self.needs[1] else None,
        )


class Linear(Operation):
    """x @ weight.T + bias: (..., in), (out, in), (out,) -> (..., out)."""

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.weight = weight
        self.shape = x.shape
        self.x = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # (N, in)
        result = xp.matmul(self.x, self.weight.T)  # (N, out)
        if bias is not None:
            result += bias
        return result.reshape(*self.shape[:-1], self.weight.shape[0])

    def backward(self, grad: Array) -> Gradients:
        flat = grad.reshape(len(self.x), grad.shape[-1])  # (N, out)
        to_x = xp.matmul(flat, self.weight).reshape(self.shape) if self.needs[0] else None
        to_weight = Product(flat.T, self.x) if self.needs[1] else None
        if len(self.needs) == 2:
            return to_x, to_weight
        return to_x, to_weight, column_sums(flat) if self.needs[2] else None


def column_sums(x: Array) -> Array:
    """The sums over the first axis, (N, C) -> (C,), as a product: faster than a reduction."""
    return xp.matmul(xp.ones(x.shape[0], x.dtype), x)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product, broadcast over the leading axes. ValueError names both shapes."""
    if a.data.dtype is not b.data.dtype or a.data.dtype.kind == "b":
        of_one_dtype("matmul", *only_numbers("matmul", a, b))
    return MatMul()(a, b)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias. Raises ValueError naming both shapes if they do not match."""
    if input.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"input of shape {input.shape} and weight of {weight.shape} do not match")
    operands = (input, weight) if bias is None else (input, weight, bias)
    if input.data.dtype is not weight.data.dtype or input.data.dtype is not operands[-1].data.dtype:
        of_one_dtype("linear", *operands)
    return Linear()(*operands)


def mm(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices."""
    return _product_of(a, b, 2)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """The products of two batches of matrices: (B, m, k), (B, k, n) -> (B, m, n)."""
    return _product_of(a, b, 3)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The product of two vectors."""
    return _product_of(a, b, 1)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The products of each element of one vector with each of another: (m,), (n,) -> (m, n)."""
    if input.ndim != 1 or vec2.ndim != 1:
        raise ValueError(f"outer needs two vectors, not shapes {input.shape} and {vec2.shape}")
    return mul(input.unsqueeze(1), vec2)


def _product_of(a: Tensor, b: Tensor, axes: int) -> Tensor:
    if a.ndim != axes or b.ndim != axes:
        raise ValueError(f"shapes {a.shape} and {b.shape} do not match: both need {axes} axes")
    return matmul(a, b)
