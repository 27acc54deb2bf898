"""What travels: for each kind of parallelism exactly the volume that its paper says."""

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn.models import GPT, GPTConfig
from ringlet.runtime import Mesh, MicroBatch, Parallelism, Setting, Step, model_of, parallelize
from ringlet.runtime.planning.traffic import traffic

BATCH, CONTEXT, WIDTH, LAYERS, VOCABULARY = 2, 8, 16, 4, 24
ACTIVATIONS = BATCH * CONTEXT * WIDTH * 4
TOKENS = BATCH * CONTEXT * 4
"""Bytes of one micro-batch's activations, and of one number for each of its tokens."""


def sent(world, mesh, options, micro, experts=None):
    """Bytes that this rank sends in a step, by operation, and the bytes of its parameters."""
    options = {**options, "recompute": tuple(options.get("recompute", ()))}
    sizes = {"n_layer": LAYERS, "n_head": 4, "n_embd": WIDTH, **(experts or {})}
    with nn.uninitialized():
        model = GPT(GPTConfig(vocab_size=VOCABULARY, block_size=CONTEXT, **sizes))
    made = Mesh(world, **mesh)
    parallel = parallelize(model, made, Parallelism(**options), seed=1)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, CONTEXT + 1))
    batches = [MicroBatch(ids[:, :-1], ids[:, 1:], 0)] * micro
    before = made.sent()
    parallel.gradients(batches, Step(1, 0, 1.0))
    for family in parallel.gradient_groups:
        family.reducer.publish()
        family.reducer.complete()
    after = made.sent()
    changed = {name: after[name] - before.get(name, 0) for name in after}
    return {name: count for name, count in changed.items() if count}


def parameter_bytes():
    """Bytes of all parameters, and of each block."""
    with nn.uninitialized():
        model = GPT(GPTConfig(VOCABULARY, CONTEXT, LAYERS, 4, WIDTH))
    blocks = sum(p.numel() for p in model.blocks[0].parameters()) * 4
    return model.num_parameters() * 4, blocks


def summed(results):
    """Over the ranks, by operation."""
    names = {name for result in results for name in result}
    return {name: sum(result.get(name, 0) for result in results) for name in names}


ALL, BLOCK = parameter_bytes()
ROOT = ALL - LAYERS * BLOCK
TP_REDUCTIONS = 2 * LAYERS + 1
"""All-reduces of activations: two for each block, and of the embedding or for the head."""

TIED = 2 * 4 * VOCABULARY * WIDTH
"""Bytes of the embedding's gradient, which both ends of a pipeline sum."""

SEEN_IN_PARTS = 4 * WIDTH * (LAYERS * (4 + 2) + 2 + CONTEXT)
"""Bytes of norms, of biases after a reduction, and of positions: each rank sees a part."""

TABLE = {
    # name: (mesh, options, micro-batches, bytes of all ranks by operation)
    "data": ({"dp": 2}, {}, 3, {"all_reduce": 2 * ALL}),
    "data, 4 ranks": ({"dp": 4}, {}, 1, {"all_reduce": 2 * 3 * ALL}),
    "zero 1": ({"dp": 2}, {"zero": 1}, 3, {"reduce_scatter": ALL, "all_gather": ALL}),
    "zero 2": ({"dp": 2}, {"zero": 2}, 3, {"reduce_scatter": 3 * ALL, "all_gather": ALL}),
    # Of the last two blocks the parameters are still there when backward begins.
    "zero 3": (
        {"dp": 2},
        {"zero": 3},
        1,
        {"reduce_scatter": ALL, "all_gather": ALL + (LAYERS - 2) * BLOCK},
    ),
    "tensor": (
        {"tp": 2},
        {},
        1,
        {"all_reduce": 2 * (2 * TP_REDUCTIONS * ACTIVATIONS + 3 * TOKENS)},
    ),
    # Gathered again in backward rather than kept: once for each layer that is cut by columns, but
    # not for the head.
    "sequence": (
        {"tp": 2},
        {"sequence": True},
        1,
        {
            "all_gather": (6 * LAYERS + 2) * ACTIVATIONS,
            "reduce_scatter": (4 * LAYERS + 2) * ACTIVATIONS,
            "all_reduce": 2 * (SEEN_IN_PARTS + 3 * TOKENS),
        },
    ),
    "pipeline": ({"pp": 2}, {}, 3, {"send": 3 * 2 * ACTIVATIONS, "all_reduce": TIED}),
    "pipeline of 4": ({"pp": 4}, {}, 2, {"send": 2 * 2 * 3 * ACTIVATIONS, "all_reduce": TIED}),
    "interleaved": (
        {"pp": 2},
        {"schedule": "interleaved", "chunks": 2},
        2,
        {"send": 2 * 2 * 3 * ACTIVATIONS, "all_reduce": TIED},
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_bytes_are_the_textbooks(ranks, case):
    mesh, options, micro, expected = TABLE[case]
    size = int(np.prod(list(mesh.values())))
    results = ranks(size, transport="ipc").run(sent, mesh=mesh, options=options, micro=micro)
    assert summed(results) == expected


@pytest.mark.parametrize("case", TABLE)
def test_the_planners_count_is_the_same(case):
    mesh, options, micro, expected = TABLE[case]
    model = model_of(GPTConfig(VOCABULARY, CONTEXT, LAYERS, 4, WIDTH))
    replicas = mesh.get("dp", 1)
    setting = Setting(mesh, replicas * micro * BATCH, BATCH, Parallelism(**options))
    stages = traffic(model, setting)
    counted = {name: n * setting.ranks / len(stages) for name, n in summed(stages).items()}
    assert counted == pytest.approx(expected)


# Every position chooses all experts: each rank has as many rows for each as it has positions.
EXPERTS = 4
ALL_EXPERTS = {"n_expert": EXPERTS, "top_k": EXPERTS, "capacity_factor": 0.0}
ROWS = EXPERTS * ACTIVATIONS
COUNTS = EXPERTS * 8
DENSE = ALL - LAYERS * 4 * (8 * WIDTH * WIDTH + 5 * WIDTH) + LAYERS * 4 * EXPERTS * WIDTH
"""Bytes: of one rank's rows, of its counts, and of all parameters but the experts'."""

OF_EXPERTS = {  # ranks, what is recomputed, all-to-alls and exchanges of counts for each layer
    "2 ranks": (2, [], 4, 1),
    "4 ranks": (4, [], 4, 1),
    "again in backward": (2, ["blocks"], 6, 2),
}


@pytest.mark.parametrize("case", OF_EXPERTS)
def test_rows_travel_to_experts_and_back(ranks, case):
    """Two all-to-alls forward and two backward; experts' gradients do not travel."""
    n, recompute, all_to_alls, counts = OF_EXPERTS[case]
    results = ranks(n, transport="ipc").run(
        sent, mesh={"ep": n}, options={"recompute": recompute}, micro=1, experts=ALL_EXPERTS
    )
    assert summed(results) == {
        "all_to_all": LAYERS * all_to_alls * (n - 1) * ROWS,
        "all_gather": LAYERS * counts * n * (n - 1) * COUNTS,
        "all_reduce": 2 * (n - 1) * DENSE,
    }
