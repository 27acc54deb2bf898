"""Data parallelism by hand: `ringlet run -n 2 examples/data_parallel.py`.

Every rank has the whole model and takes its part of each batch. The gradients are summed and every
rank takes the same step, so the models never differ. The loss is divided by the number of tokens of
the whole batch, so that the sum of the gradients is what one process would compute.
"""

import numpy as np

from ringlet import comm, nn
from ringlet.nn.models import GPT, GPTConfig

VOCABULARY, CONTEXT, BATCH, STEPS = 32, 16, 12, 20


def batch(step):
    """The same on every rank: sequences that count upwards from a random start."""
    starts = np.random.default_rng(step).integers(VOCABULARY, size=(BATCH, 1))
    tokens = (starts + np.arange(CONTEXT + 1)) % VOCABULARY
    return tokens[:, :-1], tokens[:, 1:]


def train(group):
    """Train; return the loss of each step, and the parameters."""
    model = GPT(GPTConfig(VOCABULARY, CONTEXT, n_layer=2, n_head=2, n_embd=32), seed=1)
    # Gradients in memory that the ranks of one host share: summing them needs no copy.
    flat = nn.FlatParameters(model, allocate=group.empty)
    optimizer = nn.optim.AdamW(flat, 1e-2)
    mine = slice(group.rank * BATCH // group.size, (group.rank + 1) * BATCH // group.size)
    losses = []
    for step in range(STEPS):
        ids, targets = batch(step)
        flat.zero_grad()
        loss = model(ids[mine], targets[mine], "sum") * (1 / targets.size)
        loss.backward()
        group.all_reduce(flat.grad)
        optimizer.step()
        losses.append(group.all_reduce(np.array([loss.item()]))[0])
    return losses, flat.data


world = comm.init()
losses, parameters = train(world)
alone, expected = train(world.split([world.rank]))
np.testing.assert_allclose(losses, alone, rtol=1e-4)
np.testing.assert_allclose(parameters, expected, atol=1e-3)
if world.rank == 0:
    print(f"{world.size} ranks: loss {losses[0]:.3f} -> {losses[-1]:.3f}, as one process has it")
