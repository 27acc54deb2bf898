"""Every mesh computes what one process computes: losses, gradients and weights."""

import importlib
import itertools

import numpy as np
import pytest
from whole_models import collected

from ringlet import nn
from ringlet.nn.models import GPT, GPTConfig
from ringlet.nn.optim import SGD, AdamW
from ringlet.runtime import Mesh, MeshError, MicroBatch, Parallelism, Step, parallelize
from ringlet.runtime.mesh import share
from ringlet.runtime.pipeline.schedules import recipe_of
from ringlet.runtime.rules import OPTIONS, problem

VOCABULARY, CONTEXT, BATCH, STEPS = 13, 8, 8, 2


def micro_batches(ids, parallel, count):
    """This rank's share of the samples, in so many pieces."""
    first, size = share(len(ids), parallel.mesh.size("dp", "ep"), parallel.data_index)
    pieces = [share(size, count, number) for number in range(count)]
    return [
        MicroBatch(
            ids[first + skip : first + skip + part, :-1],
            ids[first + skip : first + skip + part, 1:],
            first + skip,
        )
        for skip, part in pieces
    ]


def batch_of(step):
    """Random ids; the last targets are the last id of the vocabulary."""
    ids = np.random.default_rng(step).integers(0, VOCABULARY, (BATCH, CONTEXT + 1))
    ids[:, -1] = VOCABULARY - 1
    return ids


def trained(
    world, mesh=None, options=None, micro=2, optimizer="sgd", clip=0.0, layers=4, experts=None
):
    """Two steps; [losses, norms, first gradients, last weights, evaluation] on rank 0."""
    options = {**(options or {}), "recompute": tuple((options or {}).get("recompute", ()))}
    sizes = {"n_layer": layers, "n_head": 8, "n_embd": 16, "dropout": 0.1, **(experts or {})}
    with nn.uninitialized():
        model = GPT(GPTConfig(vocab_size=VOCABULARY, block_size=CONTEXT, **sizes))
    parallel = parallelize(model, Mesh(world, **(mesh or {})), Parallelism(**options), seed=7)
    rate = 0.5 if optimizer == "sgd" else 1e-2
    # With AdamW's own eps the step of a gradient near 0 would be that of its rounding.
    parallel.use(
        lambda flat: SGD(flat, rate) if optimizer == "sgd" else AdamW(flat, rate, eps=1e-4)
    )
    losses, norms, gradients = [], [], {}
    for step in range(STEPS):
        batches = micro_batches(batch_of(step), parallel, micro)
        loss = np.array([parallel.gradients(batches, Step(1, step, 1 / (BATCH * CONTEXT)))])
        losses.append(float(world.all_reduce(loss)[0]))
        norms.append(parallel.clip(clip) if clip else parallel.norm())
        if step == 0:
            gradients = {name: grad for name, (_, grad) in collected(parallel).items()}
        parallel.update(rate)
    score = np.array([parallel.evaluate(micro_batches(batch_of(99), parallel, 1))])
    world.all_reduce(score)
    weights = {name: weight for name, (weight, _) in collected(parallel).items()}
    return [losses, norms, gradients, weights, float(score[0])] if world.rank == 0 else None


@pytest.fixture(scope="module")
def alone(ranks):
    """What one process computes, by what else is asked for."""
    results = {}

    def result(**arguments):
        key = repr(sorted(arguments.items()))
        if key not in results:
            results[key] = ranks(1).run(trained, micro=1, **arguments)[0]
        return results[key]

    return result


def assert_same(result, expected, weights=1e-6):
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(result[1], expected[1], rtol=1e-5)
    for name, gradient in expected[2].items():
        np.testing.assert_allclose(result[2][name], gradient, atol=2e-7, err_msg=name)
    for name, weight in expected[3].items():
        np.testing.assert_allclose(result[3][name], weight, atol=weights, err_msg=name)
    np.testing.assert_allclose(result[4], expected[4], rtol=1e-6)


def factorizations(size):
    """All dp x tp x pp of so many ranks."""
    return [
        {"dp": dp, "tp": tp, "pp": pp}
        for dp, tp, pp in itertools.product(range(1, size + 1), repeat=3)
        if dp * tp * pp == size
    ]


def text(value):
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None


SMALL = [mesh for size in (1, 2, 4) for mesh in factorizations(size)]
LARGE = factorizations(8)
LAYERS = {1: 4, 2: 4, 4: 5, 8: 9}
"""By stages: blocks that divide, and blocks that do not."""


def trained_in_blocks(world, **arguments):
    """The same, with the head's logits made a few rows at a time."""
    blocks = importlib.import_module("ringlet.nn.autograd.operations.linear_cross_entropy")
    before = blocks.ROWS, blocks.LOGITS
    blocks.ROWS, blocks.LOGITS = 3, 1
    try:
        return trained(world, **arguments)
    finally:
        blocks.ROWS, blocks.LOGITS = before


@pytest.mark.parametrize(
    "mesh, options",
    [
        ({"dp": 2}, {"zero": 3}),
        ({"tp": 2}, {}),
        ({"tp": 2}, {"sequence": True}),
        ({"tp": 2, "pp": 2}, {"schedule": "zero-bubble"}),
        ({"cp": 2}, {"recompute": ["lm_head"]}),
    ],
    ids=str,
)
def test_the_head_works_in_blocks(ranks, alone, mesh, options):
    size = int(np.prod(list(mesh.values())))
    result = ranks(size).run(trained_in_blocks, mesh=mesh, options=options)[0]
    assert_same(result, alone())


def run(ranks, mesh, deadline=60.0, **arguments):
    size = int(np.prod(list(mesh.values())))
    return ranks(size).run(trained, deadline=deadline, mesh=mesh, **arguments)[0]


STAGES = [(mesh, zero) for mesh in SMALL for zero in range(4) if mesh["dp"] > 1 or zero in (0, 3)]
"""With nobody to share with, a stage of ZeRO between none and all of it is nothing of its own."""


@pytest.mark.parametrize(("mesh", "zero"), STAGES, ids=text)
def test_meshes_and_stages_of_zero(ranks, alone, mesh, zero):
    layers = LAYERS[mesh["pp"]]
    result = run(ranks, mesh, options={"zero": zero}, layers=layers)
    assert_same(result, alone(layers=layers))


@pytest.mark.parametrize(
    ("zero", "mesh"), list(zip(itertools.cycle(range(4)), LARGE[::2])), ids=text
)
def test_eight_ranks(ranks, alone, mesh, zero):
    layers = LAYERS[mesh["pp"]]
    options = {"zero": zero, "recompute": ["blocks"][: zero % 2], "sequence": mesh["tp"] in (2, 4)}
    micro = 1 if mesh["dp"] == 8 else 2
    result = run(ranks, mesh, options=options, layers=layers, micro=micro)
    assert_same(result, alone(layers=layers))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [[], ["blocks"]])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("mesh", LARGE, ids=text)
def test_all_of_eight_ranks(ranks, alone, mesh, zero, recompute):
    """Every combination, with every schedule that it allows."""
    layers = 2 * mesh["pp"] + 1
    for name, schedule in SCHEDULES.items():
        possible = mesh["pp"] > 1 and (not recipe_of(name).splits or zero < 2)
        if possible or name == "1f1b":
            options = {**schedule, "zero": zero, "recompute": recompute}
            for optimizer, clip in (("sgd", 0.0), ("adamw", 0.5)):
                how = {"optimizer": optimizer, "clip": clip, "layers": layers}
                micro = 1 if mesh["dp"] == 8 else 2
                result = run(ranks, mesh, options=options, micro=micro, **how)
                assert_same(result, alone(**how), weights=1e-5 if clip else 1e-6)


@pytest.mark.parametrize("mesh", SMALL, ids=text)
def test_adamw_and_clipping(ranks, alone, mesh):
    arguments = {"optimizer": "adamw", "clip": 0.5, "layers": LAYERS[mesh["pp"]]}
    result = run(ranks, mesh, options={"zero": 1}, **arguments)
    assert_same(result, alone(**arguments), weights=1e-5)


SCHEDULES = {
    "gpipe": {"schedule": "gpipe"},
    "1f1b": {"schedule": "1f1b"},
    "interleaved": {"schedule": "interleaved", "chunks": 2},
    "zero-bubble": {"schedule": "zero-bubble"},
    "zb-h2": {"schedule": "zb-h2"},
    "zb-v": {"schedule": "zb-v", "chunks": 2},
    "zb-1p": {"schedule": "zb-1p"},
    "zb-2p": {"schedule": "zb-2p"},
}


def assert_same_bits(result, expected):
    assert result[:2] == expected[:2]
    for kind in (2, 3):
        for name, array in expected[kind].items():
            np.testing.assert_array_equal(result[kind][name], array, err_msg=name)


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "micro", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("mesh", [m for m in SMALL if m["pp"] > 1], ids=text)
def test_a_schedule_or_recomputation_changes_no_bit(ranks, alone, mesh, micro, everything):
    """Also with fewer micro-batches than stages; in every combination, or each kind once."""
    results, layers = {}, 2 * mesh["pp"]
    kinds = ([], ["blocks"], ["*.attend", "*.act"])
    for number, (name, schedule) in enumerate(SCHEDULES.items(), 2):
        for recompute in kinds if everything else [kinds[number % 3]]:
            options = {**schedule, "recompute": recompute}
            results[name, *recompute] = run(
                ranks, mesh, options=options, layers=layers, micro=micro, clip=0.5
            )
    assert_same(results["1f1b",], alone(layers=layers, clip=0.5))
    for result in results.values():
        assert_same_bits(result, results["1f1b",])


FILES = {
    "backwards": "1F0,1B0,1F1,1B1,1F2,1B2\n0F0,0F1,0B0,0F2,0B1,0B2\n",
    "a V upside down": (
        "1F0,2F0,1F1,2F1,1F2,2F2,2B0,1B0,2I1,1I1,1W1,2W1,2B2,1B2\n"
        "0F0,0F1,0F2,3F0,3I0,3F1,3I1,3W0,3W1,3F2,3B2,0B0,(0B1;0B2)OVERLAP_F_B\n"
    ),
    "in turn": (
        "1F0,1F1,3F0,3F1,3B0,3B1,1F2,3F2,3B2,1B0,1B1,1B2\n"
        "0F0,0F1,2F0,2F1,0F2,2B0,2B1,2F2,2B2,0B0,0B1,0B2\n"
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_schedule_from_a_file_changes_no_bit(ranks, case):
    """Also where the first stage is not on the first rank."""
    how = {"layers": 4, "micro": 3, "clip": 0.5}
    expected = run(ranks, {"pp": 2}, options={}, **how)
    assert_same_bits(run(ranks, {"pp": 2}, options={"schedule": FILES[case]}, **how), expected)


CUTS = [
    ({"pp": 2}, {}, (1, 5)),
    ({"pp": 2}, {"schedule": "zero-bubble", "recompute": ["blocks"]}, (5, 1)),
    ({"pp": 2}, {"schedule": "interleaved"}, (1, 2, 1, 2)),
    ({"pp": 2}, {"schedule": "zb-v"}, (1, 1, 3, 1)),
    ({"pp": 4}, {"schedule": "gpipe"}, (1, 3, 1, 1)),
    ({"pp": 2, "dp": 2}, {"zero": 3}, (4, 2)),
    ({"pp": 2, "tp": 2}, {"schedule": "zb-2p", "sequence": True}, (2, 4)),
]


@pytest.mark.parametrize(("mesh", "options", "layers_per_stage"), CUTS, ids=str)
def test_unequal_stages_change_no_bit(ranks, mesh, options, layers_per_stage):
    how = {"layers": 6, "micro": 3 if mesh.get("dp", 1) == 1 else 2, "clip": 0.5}
    equal = run(ranks, mesh, options=options, **how)
    unequal = run(ranks, mesh, options={**options, "layers_per_stage": layers_per_stage}, **how)
    assert_same_bits(unequal, equal)


CONTEXTS = [
    ({"cp": 2}, {"recompute": ["*.attend"]}),
    ({"cp": 4}, {"zero": 2}),
    ({"cp": 2, "dp": 2}, {"zero": 1}),
    ({"cp": 2, "tp": 2}, {"sequence": True}),
    ({"cp": 2, "pp": 2}, {"zero": 3, "recompute": ["blocks"]}),
    ({"cp": 2, "pp": 2}, {"schedule": "zero-bubble"}),
    ({"cp": 2, "pp": 2}, {"schedule": "zb-v", "recompute": ["*.attend"]}),
    ({"dp": 2, "pp": 2, "tp": 2}, {"schedule": "zb-v", "zero": 1, "sequence": True}),
    ({"cp": 2, "pp": 2, "tp": 2}, {"zero": 1, "sequence": True}),
]


@pytest.mark.parametrize(("mesh", "options"), CONTEXTS, ids=text)
def test_context_parallelism(ranks, alone, mesh, options):
    assert_same(run(ranks, mesh, options=options), alone())


@pytest.mark.parametrize("mesh", [{"tp": 2}, {"tp": 4}, {"dp": 2, "tp": 2}], ids=text)
@pytest.mark.parametrize("zero", [0, 3])
def test_sequence_parallelism(ranks, alone, mesh, zero):
    result = run(ranks, mesh, options={"sequence": True, "zero": zero})
    assert_same(result, alone())


EXPERTS = {"n_expert": 4, "top_k": 2, "capacity_factor": 1.0, "balance": 0.1}
"""With a capacity at which choices are dropped, and a balance loss that is felt."""

SPREAD = [
    ({"ep": 2}, {}),
    ({"ep": 4}, {"zero": 2}),
    ({"dp": 2, "ep": 2}, {"zero": 1, "recompute": ["blocks"]}),
    ({"ep": 2, "tp": 2}, {"zero": 3, "recompute": ["*.mlp"]}),
    ({"ep": 2, "tp": 2}, {"sequence": True}),
    ({"ep": 2, "pp": 2}, {"schedule": "zero-bubble"}),
    ({"ep": 2, "pp": 2}, {"zero": 3, "schedule": "interleaved", "chunks": 2}),
    ({"ep": 2, "cp": 2}, {"zero": 2, "recompute": ["*.experts"]}),
    pytest.param(
        {"ep": 2, "cp": 2, "tp": 2}, {"zero": 3, "sequence": True}, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("mesh", "options"), SPREAD, ids=text)
def test_expert_parallelism(ranks, alone, mesh, options):
    assert_same(run(ranks, mesh, options=options, experts=EXPERTS), alone(experts=EXPERTS))


def test_ranks_along_ep_may_have_different_numbers_of_samples(ranks, alone):
    six = {**EXPERTS, "n_expert": 6}
    assert_same(run(ranks, {"ep": 3}, options={"zero": 1}, experts=six), alone(experts=six))


@pytest.mark.parametrize("mesh", [{"ep": 4}, {"dp": 2, "ep": 2}, {"ep": 2, "tp": 2}], ids=text)
def test_one_expert_for_each_position_with_adamw_and_clipping(ranks, alone, mesh):
    switch = {"optimizer": "adamw", "clip": 0.5, "experts": {**EXPERTS, "top_k": 1}}
    result = run(ranks, mesh, options={"zero": 1}, **switch)
    assert_same(result, alone(**switch), weights=1e-5)


def drawn(seed):
    """Any combination that is not refused: (mesh, options, other arguments of `trained`)."""
    random = np.random.default_rng(seed)
    while True:
        axes = random.permutation(["dp", "tp", "pp", "cp", "ep", "dp"])[: random.integers(1, 5)]
        mesh = {str(axis): int(random.choice([1, 2, 4])) for axis in axes}
        schedule = SCHEDULES[str(random.choice(list(SCHEDULES)))] if mesh.get("pp", 1) > 1 else {}
        sequence, priority = bool(random.integers(2)), random.random() < 0.2
        options = {
            **schedule,
            "zero": int(random.integers(4)),
            "sequence": sequence and mesh.get("tp", 1) > 1,
            "priority": priority,
            "recompute": RECOMPUTED[random.integers(len(RECOMPUTED))],
            "bucket_bytes": int(random.choice([1 << 10, 1 << 20])),
        }
        clip = 0.0 if priority else float(random.choice([0.0, 0.5]))
        how = {"optimizer": str(random.choice(["sgd", "adamw"])), "clip": clip}
        if mesh.get("ep", 1) > 1 or random.random() < 0.3:
            how["experts"] = {**EXPERTS, "top_k": int(random.choice([1, 2]))}
        else:  # a pattern that fits no module is refused
            options["recompute"] = [each for each in options["recompute"] if each != "*.experts"]
        stages = mesh.get("pp", 1) * schedule.get("chunks", 1)
        how["layers"] = stages + int(random.integers(3))
        micro = int(random.integers(1, 5))
        if possible(mesh, options, micro):
            return mesh, options, {**how, "micro": micro}


RECOMPUTED = [[], ["blocks"], ["*.attend", "*.act"], ["*.mlp"], ["*.attn", "*.experts"]]


def possible(mesh, options, micro):
    """Whether so many ranks can share the samples and the positions, and options allow it."""
    shape = {axis: mesh.get(axis, 1) for axis in ("dp", "tp", "pp", "cp", "ep")}
    positions = 2 * shape["cp"] * (shape["tp"] if options["sequence"] else 1)
    try:
        if problem({**vars(Parallelism(**options)), **shape, "device": "cpu"}, OPTIONS):
            return False
    except MeshError:
        return False
    fits = shape["dp"] * shape["ep"] * micro <= BATCH and CONTEXT % positions == 0
    return fits and 1 < np.prod(list(shape.values())) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_any_combination(ranks, alone, seed):
    mesh, options, how = drawn(seed)
    micro = how.pop("micro")
    print(mesh, options, how, micro)  # shown if it fails
    result = run(ranks, mesh, options=options, micro=micro, **how)
    assert_same(result, alone(**how), weights=1e-5 if how["optimizer"] == "adamw" else 2e-6)


def refused(world, mesh, options, layers=2, experts=0):
    sizes = {"n_layer": layers, "n_head": 3, "n_embd": 12, "n_expert": experts}
    with nn.uninitialized():
        model = GPT(GPTConfig(vocab_size=VOCABULARY, block_size=CONTEXT, **sizes))
    try:
        parallelize(model, Mesh(world, **mesh), Parallelism(**options))
    except MeshError as error:
        return str(error)
    return ""


REFUSED = {
    "the product": ({"dp": 3}, {}, "dp=2 would fit"),
    "a product without a dp that fits": ({"tp": 3}, {}, "start 3 workers"),
    "no axis": ({"dp": 0, "tp": 2}, {}, "dp is 0"),
    "heads": ({"tp": 2}, {}, "3 heads cannot be cut into tp=2"),
    "stages": ({"pp": 2}, {"schedule": "interleaved", "chunks": 2}, "at most 2 stages"),
    "too few stages": (
        {"pp": 2},
        {"layers_per_stage": (2,)},
        "is 2: 1 stage with 2 blocks, and there are 2 (pp=2, chunks 1) with 2; 1,1 would fit",
    ),
    "other blocks": (
        {"pp": 2},
        {"layers_per_stage": (1, 2)},
        "with 3 blocks, and there are 2 (pp=",
    ),
    "an empty stage": (
        {"pp": 2},
        {"layers_per_stage": (2, 0)},
        "layers_per_stage has 0; a stage has at least one block",
    ),
    "a stage of ZeRO": ({"dp": 2}, {"zero": 4}, "there are 0 (none), 1, 2, 3"),
    "a schedule": ({"pp": 2}, {"schedule": "2f2b"}, "there are gpipe, 1f1b"),
    "chunks": ({"pp": 2}, {"chunks": 2}, "1f1b has 1 chunk on each rank, not 2; for several: i"),
    "one chunk": (
        {"pp": 2},
        {"schedule": "interleaved", "chunks": 1},
        "interleaved needs at least 2 chunks on each rank, not 1",
    ),
    "three chunks": ({"pp": 2}, {"schedule": "zb-v", "chunks": 3}, "zb-v needs exactly 2 chunks"),
    "no chunks": ({"pp": 2}, {"chunks": -1}, "chunks is -1; it must be at least 0"),
    "a schedule without a pipeline": ({"dp": 2}, {"schedule": "gpipe"}, "the mesh has pp=1"),
    "zero-bubble": ({"pp": 2}, {"schedule": "zero-bubble", "zero": 2}, "zero=1"),
    "a file": (
        {"pp": 2},
        {"schedule": "0F0,0B0"},
        "the schedule file has 1 row, one for each rank, ",
    ),
    "a file's chunks": ({"pp": 2}, {"schedule": FILES["in turn"], "chunks": 3}, "exactly 2 chunks"),
    "a file's weights": (
        {"pp": 2},
        {"schedule": FILES["a V upside down"], "zero": 2},
        "zero-bubble postpones weight gradients",
    ),
    "no file": ({"pp": 2}, {"schedule": "gone.csv"}, "cannot read gone.csv: No such file"),
    "a v": ({"pp": 2}, {"schedule": "zb-v", "zero": 3}, "zero=1, or the schedule 1f1b, would fit"),
    "sequence": ({"dp": 2}, {"sequence": True}, "needs tensor parallelism"),
    "no experts": (
        {"ep": 2},
        {},
        "ep=2 shards experts, and the model has none: experts 4, or dp=2, would fit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_what_would_fit(ranks, case):
    mesh, options, words = REFUSED[case]
    texts = ranks(2).run(refused, mesh=mesh, options=options)
    assert texts[0] == texts[1]
    assert words in texts[0]


def test_experts_that_do_not_divide_are_refused(ranks):
    texts = ranks(2).run(refused, mesh={"ep": 2}, options={}, experts=3)
    assert texts == ["3 experts cannot be cut into ep=2 parts; ep can be 1, 3"] * 2


def without_a_plan(world):
    try:
        parallelize(nn.Linear(2, 2), Mesh(world))
    except MeshError as error:
        return str(error)
    return ""


def test_a_model_without_a_plan_is_refused(ranks):
    assert (
        "no sharding plan for Linear; there are plans for BERT, GPT, Llama, T5"
        in ranks(1).run(without_a_plan)[0]
    )
