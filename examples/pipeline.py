"""A pipeline by hand: `ringlet run -n 2 examples/pipeline.py`.

Huang et al., "GPipe" (2019): each rank has some of the blocks, and the batch is cut into
micro-batches so that all ranks soon have work. All micro-batches go forward, then all go backward
in the opposite order. Activations travel from rank to rank, and their gradients travel back.
`ringlet explain pipeline --schedule gpipe --stages 2` draws which rank does what when.
"""

import numpy as np

from ringlet import comm, nn
from ringlet.nn import functional as F

WIDTH, MICRO_BATCHES, ROWS = 16, 4, 8


def block(x, weight):
    """One layer: (rows, WIDTH) -> (rows, WIDTH)."""
    return x + F.gelu(F.linear(x, weight))


def run_stage(world, weight, batches):
    """Run forward and backward of this rank's block; return the loss (half the sum of squares) on
    the last rank."""
    last = world.size - 1
    inputs, outputs, loss = [], [], 0.0
    for number, rows in enumerate(batches):
        x = rows if world.rank == 0 else world.recv(world.rank - 1, tag=number)
        inputs.append(nn.Tensor(x, requires_grad=True))
        outputs.append(block(inputs[-1], weight))
        if world.rank < last:
            world.send(outputs[-1].data, world.rank + 1, tag=number)
        else:
            loss += 0.5 * np.square(outputs[-1].data).sum()
    for number in reversed(range(len(batches))):
        y = outputs[number]
        y.backward(y.data if world.rank == last else world.recv(world.rank + 1, tag=number))
        if world.rank > 0:
            world.send(inputs[number].grad, world.rank - 1, tag=number)
    return loss


world = comm.init()
random = np.random.default_rng(0)
weights = random.standard_normal((world.size, WIDTH, WIDTH)) / WIDTH
batches = random.standard_normal((MICRO_BATCHES, ROWS, WIDTH))

whole = [nn.Tensor(weight, requires_grad=True) for weight in weights]
x = nn.Tensor(batches.reshape(-1, WIDTH))
for weight in whole:
    x = block(x, weight)
x.backward(x.data)

mine = nn.Tensor(weights[world.rank], requires_grad=True)
loss = run_stage(world, mine, batches)
np.testing.assert_allclose(mine.grad, whole[world.rank].grad)
if world.rank == world.size - 1:
    np.testing.assert_allclose(loss, 0.5 * np.square(x.data).sum())
    print(f"{world.size} stages, {MICRO_BATCHES} micro-batches: loss {loss:.3f}, as one process")
