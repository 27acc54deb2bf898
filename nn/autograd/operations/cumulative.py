"""Running sums and products."""

from ringlet.nn.autograd.conversion import in_dtype, unary
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.reductions import sum_dtype
from ringlet.nn.autograd.tensor import Operation
from ringlet.nn.backend import Array, xp

__all__ = ["cumprod", "cumsum"]


class CumSum(Operation):
    """Running sums along an axis."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Array) -> Array:
        return x.cumsum(axis=self.dim, dtype=sum_dtype(x))

    def backward(self, grad: Array) -> Gradients:
        return (xp.flip(xp.flip(grad, self.dim).cumsum(axis=self.dim), self.dim),)


class CumProd(CumSum):
    """Running products along an axis."""

    def forward(self, x: Array) -> Array:
        self.x = x
        self.y = x.cumprod(axis=self.dim, dtype=sum_dtype(x))
        return self.y

    def backward(self, grad: Array) -> Gradients:
        """Slopes are sums of products without one element; where one is 0, the long way."""
        if (self.x != 0).all():
            return (super().backward(grad * self.y)[0] / self.x,)
        x, g = (xp.moveaxis(each, self.dim, -1) for each in (self.x, grad))
        length = x.shape[-1]
        eye = xp.eye(length, dtype=bool)
        without = xp.where(eye, in_dtype(1, x), x[..., None, :]).cumprod(-1)  # (..., left out, at)
        slopes = xp.where(xp.tri(length, dtype=bool).T, without, in_dtype(0, x))
        return (xp.moveaxis((slopes * g[..., None, :]).sum(-1), -1, self.dim),)


cumsum = unary(CumSum, along=True)
cumprod = unary(CumProd, along=True)
