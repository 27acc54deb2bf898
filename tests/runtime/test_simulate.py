"""A simulated step: what it is made of, what makes it slower, and failures."""

import functools
import statistics
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quickly import mostly_slow

from ringlet.nn.models import BERTConfig, GPTConfig, LlamaConfig, T5Config
from ringlet.runtime import (
    MODELS,
    ClusterError,
    MeshError,
    Parallelism,
    Setting,
    load_cluster,
    model_of,
    simulate,
)
from ringlet.runtime.planning.cluster import Failures, Slowdown, parse_cluster
from ringlet.runtime.planning.costs import ModelCosts, block_flops, model_flops, repeated
from ringlet.runtime.planning.crowding import crowding
from ringlet.runtime.planning.device import Device, Measured, Operation
from ringlet.runtime.planning.fabric import SIMULATED_RANKS, Fabric
from ringlet.runtime.planning.failures import (
    between_failures,
    goodput,
    simulate_failures,
    useful,
)
from ringlet.runtime.planning.footprint import footprints
from ringlet.runtime.planning.models import dense_parameters, expert_parameters, gpt, llama
from ringlet.runtime.planning.operations import block_part
from ringlet.runtime.planning.setting import MEGATRON, RINGLET, Program

SMALL = gpt("small", 8, 256, 8, vocabulary=1024, context=128)
TWO_HOSTS = parse_cluster(
    tomllib.loads(
        """
        devices = 4
        hosts = 4
        device = {memory = 16e9, bandwidth = 1e11, peak = {float32 = 1e13}, kernel = 1e-6}
        slowdown = {neighbours = [[2, 1.1]], sums = 0.2}

        [[links]]
        name = "inside"
        ranks = 4
        latency = 2e-6
        bandwidth = 2e10

        [[links]]
        name = "rack"
        ranks = 8
        latency = 1e-5
        bandwidth = 2e9
        overhead = 1e-6
        sharing = 2

        [[links]]
        name = "hall"
        ranks = 16
        latency = 2e-5
        bandwidth = 2e9
        oversubscription = 2
        """
    )
)

MESHES = [
    {"dp": 16}, {"tp": 4, "dp": 4}, {"tp": 4, "pp": 4}, {"tp": 8, "dp": 2}, {"pp": 2, "dp": 8},
    {"cp": 2, "tp": 2, "dp": 4}, {"pp": 8, "dp": 2}, {"pp": 4, "cp": 2, "tp": 2},
]  # fmt: skip


def setting(mesh, batch=32, program=None, **options):
    return Setting(mesh, batch, 1, Parallelism(**options), program or RINGLET)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("zero", mostly_slow([0, 1, 2, 3], 1, 3))
def test_the_critical_path_is_as_long_as_the_step(mesh, zero):
    found = simulate(SMALL, TWO_HOSTS, setting(mesh, zero=zero))
    assert sum(segment.seconds for segment in found.path) == pytest.approx(found.seconds)
    assert all(segment.seconds > 0 for segment in found.path)
    assert 0 < found.mfu <= found.hfu < 1
    assert all(0 <= busy <= 1 for busy in found.links.values())
    assert all(0 <= seconds <= found.seconds for seconds in found.exposed.values())
    assert found.tokens_per_second == pytest.approx(32 * 128 / found.seconds)
    assert len(found.memory) == len(found.finished) == mesh.get("pp", 1)


CROWDED = replace(
    TWO_HOSTS, devices=4, hosts=1, links=TWO_HOSTS.links[:1],
    slowdown=Slowdown(((2, 1.0), (4, 2.0)))
)  # fmt: skip
"""Two cores for four ranks."""


def test_ranks_that_wait_lend_their_core_to_others():
    alone = replace(CROWDED, slowdown=Slowdown())

    def longer(mesh, batch=16, **options):
        seconds = [
            simulate(SMALL, cluster, setting(mesh, batch, **options)).seconds
            for cluster in (CROWDED, alone)
        ]
        return seconds[0] / seconds[1]

    full, half = longer({"dp": 4}), longer({"pp": 4}, batch=4)
    assert full == pytest.approx(2.0, rel=0.1)
    assert 1.1 < half < 1.5
    # The more micro-batches, the fewer bubbles.
    assert half < longer({"pp": 4}, batch=16) < longer({"pp": 4}, batch=64) < full
    assert longer({"dp": 2}) == longer({"pp": 2}) == pytest.approx(1.0)


def test_a_pipeline_in_which_everybody_waits_is_as_fast_as_one_rank():
    pipeline = setting({"pp": 4}, batch=1)
    assert crowding(pipeline, CROWDED) == pytest.approx(1.0)
    assert crowding(setting({"pp": 2, "dp": 2}, batch=2), CROWDED) == pytest.approx(1.0)
    # Two stages of two ranks: of a step's 9 thirds, all four compute in 3.
    two = setting({"pp": 2, "tp": 2}, batch=2)
    assert crowding(two, CROWDED) == pytest.approx((3 + 3 + 2 * 3) / 9)


@functools.cache
def slower(tier=0, figure="latency", factor=1.0):
    """The links with one figure worse."""
    tiers = list(TWO_HOSTS.links)
    value = getattr(tiers[tier], figure)
    worse = value / factor if figure == "bandwidth" else (value or 1e-9) * factor
    tiers[tier] = replace(tiers[tier], **{figure: worse})
    return Fabric(replace(TWO_HOSTS, links=tuple(tiers)))


FIGURES = ("latency", "bandwidth", "overhead", "oversubscription", "combine")


@settings(max_examples=40, deadline=None)
@given(
    mesh=st.sampled_from(MESHES),
    zero=st.integers(0, 3),
    recompute=st.sampled_from([(), ("blocks",), ("*.attend",)]),
    sequence=st.booleans(),
    flags=st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in ("overlap_gradients", "overlap_tensor", "overlap_context",
                         "overlap_parameters", "overlap_transfers", "scatter")
        }
    ),
    tier=st.integers(0, 2),
    figure=st.sampled_from(FIGURES),
    factor=st.sampled_from([1.01, 4.0]),
)  # fmt: skip
def test_a_slower_link_never_makes_a_step_faster(
    mesh, zero, recompute, sequence, flags, tier, figure, factor
):
    options = {"zero": zero, "recompute": recompute, "sequence": sequence and "tp" in mesh}
    cut = setting(mesh, program=Program(**flags), **options)
    before, after = (
        simulate(SMALL, fabric.cluster, cut, fabric=fabric).seconds
        for fabric in (slower(), slower(tier, figure, factor))
    )
    assert after >= before * (1 - 1e-9)


def test_a_straggler_costs_what_it_is_slower_wherever_it_is():
    cut = setting({"pp": 4, "dp": 4})
    healthy = simulate(SMALL, TWO_HOSTS, cut)
    for rank in (0, 5, 15):
        slow = simulate(SMALL, TWO_HOSTS, cut, slow={rank: 1.5})
        assert 1.05 * healthy.seconds < slow.seconds < 1.5 * healthy.seconds
    everybody = simulate(SMALL, TWO_HOSTS, cut, slow=dict.fromkeys(range(16), 1.5))
    assert everybody.seconds > slow.seconds
    with pytest.raises(ClusterError, match="rank 16 is 2 times as slow; there are 16"):
        simulate(SMALL, TWO_HOSTS, cut, slow={16: 2})


def test_what_cannot_be_is_refused():
    with pytest.raises(ClusterError, match="has 16 devices, and the mesh needs 32"):
        simulate(SMALL, TWO_HOSTS, setting({"dp": 32}))
    with pytest.raises(MeshError, match="a batch of 32 cannot be cut"):
        setting({"dp": 5})
    with pytest.raises(ClusterError, match=r"device.peak has no float16, .* it has float32"):
        simulate(SMALL, TWO_HOSTS, setting({"dp": 4}, program=MEGATRON))


def test_a_thousand_ranks_need_few_simulated_collectives(monkeypatch):
    simulated = []
    run = Fabric.simulate
    monkeypatch.setattr(Fabric, "simulate", lambda *call: simulated.append(call) or run(*call))
    for mesh in ({"tp": 8, "pp": 16, "dp": 8}, {"dp": 1024}, {"tp": 8, "dp": 128}):
        fabric = Fabric(load_cluster("selene"))
        cut = Setting(mesh, 1024, 1, Parallelism(recompute=("blocks",)), MEGATRON)
        found = simulate(MODELS["gpt-39b"], fabric.cluster, cut, fabric=fabric)
        assert len(found.memory) == mesh.get("pp", 1)
        assert all(call[3].size <= SIMULATED_RANKS for call in simulated)
        assert len(simulated) == len(set(simulated))
    assert len(simulated) < 60


def test_closed_forms_alone_are_near():
    for mesh in ({"tp": 4, "dp": 4}, {"tp": 8, "dp": 2}, {"pp": 2, "dp": 8}, {"pp": 4, "tp": 4}):
        exact = simulate(SMALL, TWO_HOSTS, setting(mesh)).seconds
        closed = simulate(SMALL, TWO_HOSTS, setting(mesh), fabric=Fabric(TWO_HOSTS, 0)).seconds
        assert closed == pytest.approx(exact, rel=0.3)


def test_unequal_stages_make_room_for_the_head():
    model = gpt("wordy", 8, 256, 8, vocabulary=50257, context=128)
    even, unequal = (
        simulate(model, TWO_HOSTS, setting({"pp": 2}, layers_per_stage=cut))
        for cut in ((4, 4), (6, 2))
    )
    assert unequal.seconds < even.seconds
    assert unequal.bubble < even.bubble


# -- costs ---------------------------------------------------------------------------------------

FAMILIES = [
    GPTConfig(100, 32, 3, 4, 64),
    GPTConfig(100, 32, 3, 4, 64, n_expert=4),
    LlamaConfig(100, 64, 192, 3, 4, 2, max_position_embeddings=32),
    BERTConfig(100, 64, 3, 4, 256, max_position_embeddings=32),
    T5Config(100, 64, 16, 256, 3, 0, 4),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: type(config).__name__)
def test_flops_of_the_operations_are_the_models(config):
    model, cut = model_of(config), setting({"dp": 1}, program=Program(tiled=False))
    for block in set(model.blocks):
        part = block_part(block, model, cut)
        forward = sum(one.flops for one in part.forward)
        assert forward == pytest.approx(block_flops(block, model.context), rel=0.01)
        backward = sum(one.flops for one in (*part.inputs, *part.weights))
        assert backward == pytest.approx(2 * forward)


@pytest.mark.parametrize("name", ["gpt3-175b", "llama3-70b", "mixtral-8x7b"])
def test_a_token_takes_six_flops_for_each_parameter_it_meets(name):
    model = MODELS[name]
    idle = sum(
        expert_parameters(block) * (1 - block.top_k / block.experts)
        for block in model.blocks
        if block.experts
    )
    scores = 12.0 * sum(b.heads * b.head for b in model.blocks) * model.context
    met = model.parameters - idle - (0 if model.tied else model.vocabulary * model.width)
    each = model_flops(model, 1) / model.context
    assert each == pytest.approx(6 * met + scores, rel=0.01)


@pytest.mark.parametrize("mesh", [{"tp": 4}, {"cp": 4}, {"tp": 2, "cp": 2}], ids=str)
def test_shards_of_the_operations_are_the_whole(mesh):
    """But for the tiles on the diagonals of a ring's chunks, which are computed whole."""
    model = llama("x", 2, 512, 8, 1024, kv_heads=4, vocabulary=1000, context=1 << 16)
    whole, part = (block_part(model.blocks[0], model, setting(m)) for m in ({}, mesh))
    assert whole.flops <= part.flops * 4 <= 1.01 * whole.flops


def test_backward_with_recomputation_takes_the_forward_again():
    costs = {
        what: ModelCosts(
            SMALL, TWO_HOSTS, setting({"tp": 4}, recompute=what), fabric=Fabric(TWO_HOSTS)
        ).blocks[0]
        for what in ((), ("blocks",), ("*.attend",))
    }
    none, all_, core = costs.values()
    assert all_.inputs == pytest.approx(none.inputs + none.forward)
    assert none.inputs < core.inputs < all_.inputs
    assert none.forward == core.forward == all_.forward
    assert none.weights == all_.weights


def test_patterns_choose_some_blocks():
    options = Parallelism(recompute=("transformer.h.[02]", "*.attend"))
    assert repeated(options, 4) == ("whole", "core", "whole", "core")
    partial, every, none = (
        footprints(SMALL, setting({}, recompute=what))[0].activations
        for what in (("transformer.h.[0-3]",), ("blocks",), ())
    )
    assert every < partial < none


def test_measured_operators_count_as_they_were_measured():
    operation = Operation("linear", (64, 64, 64), 2.0 * 64**3, 3.0 * 64 * 64 * 4)
    guessed = Device(1e9, 1e9, {"float32": 1e9})
    known = replace(guessed, operators=(Measured("linear", (64, 64, 64), 0.5),))
    assert known.seconds(operation, "float32") == 0.5
    assert guessed.seconds(operation, "float32") == pytest.approx(2 * 64**3 / 1e9)
    other = operation._replace(shape=(64, 64, 65))
    assert known.seconds(other, "float32") == guessed.seconds(other, "float32")


def test_launches_hide_behind_long_kernels_only():
    device = Device(1e9, 1e9, {"float32": 1e9}, kernel=1e-6, launch=1e-3)
    short, long = (Operation("norm", (n,), nbytes=n) for n in (1e3, 1e8))
    assert device.sequence([short] * 3, "float32") == pytest.approx(3e-3)
    assert device.sequence([short, long], "float32") == pytest.approx(0.100003, rel=1e-3)


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-7b", "gpt-7.5b", "mixtral-8x7b", "t5-11b", "bert-large"])
@pytest.mark.parametrize("mesh", [{"tp": 4}, {"pp": 2, "tp": 2}, {"dp": 8}], ids=str)
def test_all_ranks_together_hold_the_model(name, mesh):
    model = MODELS[name]
    found = footprints(model, setting(mesh))
    held = sum(rank.parameters for rank in found) * mesh.get("tp", 1) / 4
    copies = model.vocabulary * model.width if model.tied and "pp" in mesh else 0
    whole = sum(block.norms * block.norm * block.width for block in model.blocks)
    spare = mesh.get("tp", 1) * (whole + (model.context + 20) * model.width)
    spare += 4 * sum(b.attention_parameters[1] + b.mlp_parameters[1] for b in model.blocks)
    assert model.parameters + copies <= held <= model.parameters + copies + spare


def test_what_saves_memory_saves_it():
    model = llama("x", 32, 512, 8, 1536, vocabulary=1000, context=512)

    def total(mesh, **options):
        return max(rank.total for rank in footprints(model, setting(mesh, **options)))

    plain = total({"dp": 8})
    assert plain > total({"dp": 8}, zero=1) > total({"dp": 8}, zero=2) > total({"dp": 8}, zero=3)
    assert (
        plain > total({"dp": 8}, recompute=("*.attend",)) >= total({"dp": 8}, recompute=("blocks",))
    )
    assert total({"tp": 8}) > total({"tp": 8}, sequence=True)
    assert total({"pp": 4}, schedule="gpipe") > total({"pp": 4})
    assert total({"dp": 8}, compress="int8") > plain


def test_grouped_queries_keep_fewer_keys():
    many, few = (
        llama("x", 4, 512, 8, 1024, kv_heads=heads, context=2048).blocks[0] for heads in (8, 1)
    )
    assert dense_parameters(many) - dense_parameters(few) == 2 * 512 * 7 * 64


# -- failures ------------------------------------------------------------------------------------

BIG = replace(load_cluster("h100-roce"), failures=Failures(50700, restart=600, storage=2e12))
LLAMA = Setting({"tp": 8, "pp": 16, "dp": 128}, 2048, program=MEGATRON)


def test_a_llama_of_405b_on_16384_gpus_fails_every_three_hours_and_keeps_nine_tenths():
    # The Llama team (2024), section 3.3.4: 419 unexpected interruptions in 54 days, "higher than
    # 90 % effective training time".
    hours = between_failures(BIG, LLAMA.ranks) / 3600
    assert hours == pytest.approx(54 * 24 / 419, rel=0.01)
    found = goodput(MODELS["llama3-405b"], BIG, LLAMA, step=7.0)
    assert 0.9 < found.goodput < 0.95


@pytest.mark.parametrize("saving", [1.0, 30.0, 600.0])
@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_the_best_interval_is_dalys_and_near_youngs(saving, mean):
    storage = MODELS["gpt-1t"].parameters * 14 / saving
    hours = mean * LLAMA.ranks / 3600
    where = replace(BIG, failures=Failures(hours, restart=60, storage=storage))
    found = goodput(MODELS["gpt-1t"], where, LLAMA, step=1.0)
    assert found.interval == pytest.approx(found.daly, rel=0.02, abs=1)
    assert found.interval == pytest.approx(found.young, rel=0.25, abs=1)
    around = (useful(found.interval * f, saving, 60, mean) for f in (0.7, 1.4))
    assert all(found.goodput >= other for other in around)


def test_simulated_failures_take_as_long_as_dalys_formula_says():
    found = goodput(MODELS["llama3-405b"], BIG, LLAMA, step=7.0)
    work = 2e6
    times = [
        simulate_failures(BIG, LLAMA.ranks, work, found.interval, found.checkpoint, seed)[0]
        for seed in range(20)
    ]
    assert work / statistics.mean(times) == pytest.approx(found.goodput, abs=0.01)


def test_hosts_and_links_fail_as_well():
    more = replace(BIG, failures=Failures(1e5, host_hours=2e5, link_hours=1e5))
    rate = 16384 / 1e5 + 2048 / 2e5 + 16384 / 1e5
    assert between_failures(more, 16384) == pytest.approx(3600 / rate)
    _, failed = simulate_failures(more, 16384, 1e7, 1000.0, 1.0)
    assert failed["device"] == pytest.approx(failed["link"], rel=0.2)
    assert failed["host"] < failed["link"] / 5
    with pytest.raises(ClusterError, match="failures is missing of laptop"):
        between_failures(load_cluster("laptop"), 2)


@pytest.mark.parametrize(
    ("compress", "part"),
    [("float16", 1 / 2), ("int8", 1 / 4), ("topk:0.01", 0.2), ("powersgd", 0.01)],
)
def test_compressed_gradients_travel_faster_on_a_slow_link(compress, part):
    slow = slower(2, "bandwidth", 100.0)
    program = replace(RINGLET, overlap_gradients=False)
    whole, less = (
        simulate(
            SMALL, slow.cluster, setting({"dp": 16}, program=program, compress=name), fabric=slow
        )
        for name in ("", compress)
    )
    assert less.exposed["dp"] == pytest.approx(part * whole.exposed["dp"], rel=0.3, abs=0.01)


def test_local_steps_sum_less_often():
    slow = slower(2, "bandwidth", 100.0)
    each, fourth = (
        simulate(SMALL, slow.cluster, setting({"dp": 16}, local_steps=n), fabric=slow)
        for n in (1, 4)
    )
    assert fourth.exposed["dp"] == pytest.approx(each.exposed["dp"] / 4)
