"""Any mesh, by the library: `ringlet run -n 4 examples/any_mesh.py dp=2,tp=2`.

The model is ordinary code for one process. `parallelize` spreads it over the mesh, and it computes
the same as before. `ringlet train` adds data, checkpoints, validation and restarts.
"""

import sys

import numpy as np

from ringlet import comm
from ringlet.nn.models import Llama, LlamaConfig
from ringlet.nn.optim import AdamW
from ringlet.runtime import Mesh, MicroBatch, Parallelism, Step, parallelize
from ringlet.runtime.mesh import parse_mesh, share

VOCABULARY, CONTEXT, BATCH, STEPS = 32, 16, 8, 10


def train(world, mesh, options):
    """The loss of each step."""
    model = Llama(LlamaConfig(VOCABULARY, 32, 96, num_hidden_layers=4, num_attention_heads=4))
    parallel = parallelize(model, Mesh(world, **mesh), options, seed=1)
    parallel.use(lambda flat: AdamW(flat, 1e-2))
    ranks = parallel.mesh.size("dp", "ep")
    first, count = share(BATCH, ranks, parallel.data_index)
    losses = []
    for step in range(STEPS):
        starts = np.random.default_rng(step).integers(VOCABULARY, size=(BATCH, 1))
        tokens = ((starts + np.arange(CONTEXT + 1)) % VOCABULARY)[first : first + count]
        batch = MicroBatch(tokens[:, :-1], tokens[:, 1:], first)
        loss = parallel.gradients([batch], Step(1, step, 1 / (BATCH * CONTEXT)))
        parallel.clip(1.0)
        parallel.update(1e-2)
        losses.append(world.all_reduce(np.array([loss]))[0])
    return losses


world = comm.init()
mesh = parse_mesh(sys.argv[1]) if len(sys.argv) > 1 else {"dp": world.size}
losses = train(world, mesh, Parallelism(zero=1))
alone = train(world.split([world.rank]), {}, Parallelism())
np.testing.assert_allclose(losses, alone, rtol=1e-3)
if world.rank == 0:
    print(f"{mesh}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, as one process has it")
