"""Tensor parallelism by hand: `ringlet run -n 2 examples/tensor_parallel.py`.

Shoeybi et al., "Megatron-LM" (2019), section 3: the first matrix of an MLP is split by its output
features, the second by its input features. The activation between them is split too, so no rank
needs another until the results are summed at the end. Backward is the mirror image: each rank has
a part of the gradient of the input, and the parts are summed where the input came in.
"""

import numpy as np

from ringlet import comm, nn
from ringlet.nn import functional as F

WIDTH, HIDDEN, ROWS = 16, 64, 8


class Enter(nn.Operation):
    """Forward: nothing. Backward: the sum over the ranks."""

    def __init__(self, group):
        self.group = group

    def forward(self, x):
        return x

    def backward(self, grad):
        return (self.group.all_reduce(grad.copy()),)


class Leave(nn.Operation):
    """Forward: the sum over the ranks. Backward: nothing."""

    def __init__(self, group):
        self.group = group

    def forward(self, x):
        return self.group.all_reduce(x.copy())

    def backward(self, grad):
        return (grad,)


def mlp(x, first, second):
    """(rows, WIDTH) -> (rows, WIDTH); the matrices are (out, in)."""
    return F.linear(F.gelu(F.linear(x, first)), second)


world = comm.init()
random = np.random.default_rng(0)
first, second = random.standard_normal((HIDDEN, WIDTH)), random.standard_normal((WIDTH, HIDDEN))
x, grad = random.standard_normal((2, ROWS, WIDTH))

whole = [nn.Tensor(array, requires_grad=True) for array in (x, first, second)]
expected = mlp(*whole)
expected.backward(grad)

part = slice(world.rank * HIDDEN // world.size, (world.rank + 1) * HIDDEN // world.size)
mine = [nn.Tensor(array, requires_grad=True) for array in (x, first[part], second[:, part])]
y = Leave(world)(mlp(Enter(world)(mine[0]), *mine[1:]))
y.backward(grad)

np.testing.assert_allclose(y.data, expected.data)
np.testing.assert_allclose(mine[0].grad, whole[0].grad)
np.testing.assert_allclose(mine[1].grad, whole[1].grad[part])
np.testing.assert_allclose(mine[2].grad, whole[2].grad[:, part])
print(f"rank {world.rank} has {mine[1].shape} of {first.shape}: the same result and gradients")
