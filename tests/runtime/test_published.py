"""Published runs, with all their inputs: what the simulator says of each beside what was measured.

Constants belong to the machine (the shipped descriptions) or to the program, none to a row. The
error bounds are the test's; docs/planning.md has a table of the errors themselves.
"""

import statistics
from dataclasses import replace
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from ringlet.launcher.workers.warm import load
from ringlet.runtime import MODELS, Parallelism, Setting, load_cluster, simulate
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.schedules import make_schedule
from ringlet.runtime.planning.costs import hardware_flops, model_flops
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.footprint import footprints, states
from ringlet.runtime.planning.models import gpt
from ringlet.runtime.planning.setting import (
    MEGATRON,
    MIXED,
    MIXED_FLOAT32_GRADIENTS,
    Program,
)

SELENE, A100 = (Fabric(load_cluster(name)) for name in ("selene", "a100"))
PEAK = 312e12
GIB = 2**30

TABLE_1 = [
    # model, tp, pp, GPUs, batch, micro-batch, chunks, DDP, TFLOP/s a GPU
    ("gpt-1.7b", 1, 1, 32, 512, 16, 1, "torch", 137),
    ("gpt-3.6b", 2, 1, 64, 512, 16, 1, "torch", 138),
    ("gpt-7.5b", 4, 1, 128, 512, 16, 1, "torch", 142),
    ("gpt-18b", 8, 1, 256, 1024, 8, 1, "torch", 135),
    ("gpt-39b", 8, 2, 512, 1536, 4, 1, "local", 138),
    ("gpt-76b", 8, 4, 1024, 1792, 2, 3, "local", 140),
    ("gpt-145b", 8, 8, 1536, 2304, 2, 2, "local", 148),
    ("gpt-310b", 8, 16, 1920, 2160, 1, 2, "local", 155),
    ("gpt-530b", 8, 35, 2520, 2520, 1, 3, "local", 163),
    ("gpt-1t", 8, 64, 3072, 3072, 1, 1, "local", 163),
]
"""Narayanan et al., "Efficient large-scale language model training on GPU clusters using
Megatron-LM" (SC 2021), table 1; micro-batch, chunks and DDP from NVIDIA/Megatron-LM at f482bc503b,
examples/sc21/run_table_1.sh. Sequences of 2,048, all blocks recomputed, on Selene. FLOPs count
what is recomputed."""

TORCH = replace(MEGATRON, overlap_gradients=True, bucket=25 << 20)
"""PyTorch's DDP sums gradients in buckets during backward; Megatron's own ("local") does not."""


def step(model, mesh, batch, micro_batch=1, chunks=1, program=MEGATRON, recompute="blocks", **more):
    """A step on Selene, as Megatron does it."""
    options = Parallelism(
        recompute=(recompute,) if recompute else (),
        schedule="interleaved" if chunks > 1 else "1f1b",
        chunks=chunks,
        **more,
    )
    return on_selene(model, Setting(mesh, batch, micro_batch, options, program))


def on_selene(model, setting):
    return simulate(model, SELENE.cluster, setting, fabric=SELENE)


def megatron(name, tp, pp, ranks, batch, micro_batch, chunks, ddp):
    mesh = {"tp": tp, "pp": pp, "dp": ranks // tp // pp}
    program = TORCH if ddp == "torch" else MEGATRON
    return step(MODELS[name], mesh, batch, micro_batch, chunks, program)


def test_megatrons_table_1():
    errors = [megatron(*row).hfu * PEAK / (1e12 * measured) - 1 for *row, measured in TABLE_1]
    assert max(map(abs, errors)) < 0.10, errors
    assert statistics.mean(map(abs, errors)) < 0.05, errors


TABLE_2 = [
    ("gpt3-175b", 12, 384, 1536, 153),
    ("gpt3-175b", 12, 768, 1536, 149),
    ("gpt3-175b", 12, 1536, 1536, 141),
    ("gpt-530b", 35, 560, 2240, 171),
    ("gpt-530b", 35, 1120, 2240, 167),
    ("gpt-530b", 35, 2240, 2240, 159),
]
"""The same, table 2, rows "PTD-P": tp 8, micro-batch 1."""


@pytest.mark.parametrize(("name", "pp", "ranks", "batch", "measured"), TABLE_2)
def test_megatrons_table_2(name, pp, ranks, batch, measured):
    found = megatron(name, 8, pp, ranks, batch, 1, 1, "local").hfu * PEAK / 1e12
    assert found == pytest.approx(measured, rel=0.10)


ZERO_3 = [
    ("gpt3-175b", 384, 1536, 4, 144),
    ("gpt3-175b", 768, 1536, 2, 88),
    ("gpt3-175b", 1536, 1536, 1, 44),
    ("gpt-530b", 640, 2560, 4, 138),
    ("gpt-530b", 1120, 2240, 2, 98),
    ("gpt-530b", 2240, 2240, 1, 48),
]
"""The same, rows "ZeRO-3": DeepSpeed with data parallelism alone."""


@pytest.mark.parametrize(("name", "ranks", "batch", "micro_batch", "measured"), ZERO_3)
def test_megatrons_table_2_with_zero_3(name, ranks, batch, micro_batch, measured):
    # Rings over all ranks leave each host by one of its eight cards: as if DeepSpeed had had one.
    rings = replace(SELENE.cluster, algorithms="all_gather=ring,reduce_scatter=ring")
    options = Parallelism(recompute=("blocks",), zero=3)
    setting = Setting({"dp": ranks}, batch, micro_batch, options, MEGATRON)
    found = simulate(MODELS[name], rings, setting).hfu * PEAK / 1e12
    assert found == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("name", [row[0] for row in TABLE_1])
def test_flops_are_the_papers_formula(name):
    model, batch = MODELS[name], 64
    layers, h, s, v = len(model.blocks), model.width, model.context, model.vocabulary
    once = 24 * batch * s * layers * h * h
    assert model_flops(model, batch) == pytest.approx(
        3 * once * (1 + s / (6 * h) + v / (12 * layers * h))
    )
    assert hardware_flops(model, batch, Parallelism(recompute=("blocks",))) == pytest.approx(
        4 * once * (1 + s / (6 * h) + v / (16 * layers * h))
    )
    parameters = 12 * layers * h * h * (1 + 13 / (12 * h) + (v + s) / (12 * layers * h))
    assert model.parameters == pytest.approx(parameters, rel=1e-5)


TABLE_5 = [
    # model, pp, micro-batch, batch, chunks; seconds with full recomputation, with selective
    # recomputation and sequence parallelism
    ("gpt-22b", 1, 4, 4, 1, 1.42, 1.10),
    ("gpt3-175b", 8, 1, 64, 3, 18.13, 13.75),
    ("gpt-530b", 35, 1, 280, 3, 49.05, 37.83),
    ("gpt-1t", 64, 1, 512, 1, 94.42, 71.49),
]
"""Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022),
tables 3 and 5: tp 8, no data parallelism, on Selene. In backward the sums of inputs' gradients
overlap the weights' gradients (section 6)."""

OVERLAPPED = replace(MEGATRON, overlap_tensor=True)


def test_korthikantis_table_5():
    errors = []
    for name, pp, micro_batch, batch, chunks, full, selective in TABLE_5:
        arguments = MODELS[name], {"tp": 8, "pp": pp}, batch, micro_batch, chunks, OVERLAPPED
        errors.append(step(*arguments).seconds / full - 1)
        errors.append(step(*arguments, "*.attend", sequence=True).seconds / selective - 1)
    assert max(map(abs, errors)) < 0.06, errors
    assert statistics.mean(map(abs, errors)) < 0.03, errors


FIGURE_1 = [
    # GiB on the first rank: parameters and optimizer; activations with tensor parallelism alone,
    # and with sequence parallelism and selective recomputation
    ("gpt-22b", 1, 4, 4, 1, 45.5625, 59.25, 9.5625),
    ("gpt3-175b", 8, 1, 64, 3, 45.5625, 66.84375, 12.3515625),
    ("gpt-530b", 35, 1, 280, 3, 31.640625, 114.0234375, 23.076171875),
    ("gpt-1t", 64, 1, 512, 1, 32.958984375, 131.25, 26.5625),
]
"""The same, figure 1, as digitised in calculon-ai/calculon at caa4b11, calculon/llm/validation.py.
Gradients are in float32: 18 bytes a parameter."""


@pytest.mark.parametrize(
    ("name", "pp", "micro_batch", "batch", "chunks", "kept", "plain", "saved"), FIGURE_1
)
def test_korthikantis_memory(name, pp, micro_batch, batch, chunks, kept, plain, saved):
    program = replace(MEGATRON, precision=MIXED_FLOAT32_GRADIENTS)
    for recompute, sequence, activations in (("", False, plain), ("*.attend", True, saved)):
        options = Parallelism(
            recompute=(recompute,) if recompute else (),
            sequence=sequence,
            schedule="interleaved" if chunks > 1 else "1f1b",
            chunks=chunks,
        )
        setting = Setting({"tp": 8, "pp": pp}, batch, micro_batch, options, program)
        ranks = footprints(MODELS[name], setting)
        assert ranks[0].activations / GIB == pytest.approx(activations, rel=0.10)
        state = statistics.median(f.parameters + f.gradients + f.optimizer for f in ranks)
        assert state / GIB == pytest.approx(kept, rel=0.03)


ZERO = {
    7.5e9: (
        ["120", "52.5", "35.6", "31.4", "30.4", "30.1"],
        ["120", "41.3", "21.6", "16.6", "15.4", "15.1"],
        ["120", "30", "7.5", "1.88", "0.47", "0.12"],
    ),
    128e9: (
        ["2048", "896", "608", "536", "518", "513"],
        ["2048", "704", "368", "284", "263", "257"],
        ["2048", "512", "128", "32", "8", "2"],
    ),
    1e12: (
        ["16000", "7000", "4750", "4187", "4046", "4011"],
        ["16000", "5500", "2875", "2218", "2054", "2013"],
        ["16000", "4000", "1000", "250", "62.5", "15.6"],
    ),
}
"""Rajbhandari et al., "ZeRO" (2020), table 1: GB with 1, 4, 16, 64, 256 and 1,024 ranks, of stages
1 to 3. The paper rounds some figures down."""


@pytest.mark.parametrize("parameters", ZERO)
def test_zeros_table_1_to_the_digit(parameters):
    for zero, row in enumerate(ZERO[parameters], 1):
        for printed, ranks in zip(row, (1, 4, 16, 64, 256, 1024), strict=True):
            found = Decimal(sum(states(parameters, ranks, zero, MIXED)) / 1e9)
            places = Decimal(1).scaleb(-len(printed.partition(".")[2]))
            rounded = {found.quantize(places, way) for way in (ROUND_HALF_UP, ROUND_DOWN)}
            assert Decimal(printed) in rounded


LLAMA_3 = [
    (8192, 1, 64, 32, 430),
    (8192, 1, 128, 16, 400),
    (131072, 16, 8, 16, 380),
]
"""The Llama team, "The Llama 3 herd of models" (2024), table 4: context, cp, dp, samples of a
replica, TFLOP/s a GPU; tp 8, pp 16, on H100 with RoCE. The third row's dp is printed as 4, which
cannot be: 8 x 16 x 16 x 4 are 8,192 GPUs and not 16,384, and 4 x 16 x 131,072 are 8M tokens and not
16M."""

LLAMA = Program(
    MIXED_FLOAT32_GRADIENTS,
    overlap_context=False,
    fused_loss=False,
    bucket=160_000_000,  # Megatron Core's: 40M numbers
    update=MEGATRON.update,
)


@pytest.mark.parametrize(("context", "cp", "dp", "samples", "measured"), LLAMA_3)
def test_llama_3s_table_4(context, cp, dp, samples, measured):
    # Not in the paper: micro-batches of 1, and a block to a stage. Its "first and last stage have
    # one layer less" makes 126 blocks of 128 stages. FLOPs without the scores that a mask hides.
    options = Parallelism(zero=1, sequence=True, schedule="interleaved", chunks=8)
    model = replace(MODELS["llama3-405b"], context=context)
    mesh, batch = {"tp": 8, "cp": cp, "pp": 16, "dp": dp}, samples * dp
    setting = Setting(mesh, batch, 1, options, LLAMA, cuts=(0, *[1] * 126, 0))
    assert batch * context == pytest.approx(16e6, rel=0.05)
    found = simulate(model, load_cluster("h100-roce"), setting)
    speed = model_flops(model, batch, masked=False) / found.seconds / setting.ranks
    assert speed / 1e12 == pytest.approx(measured, rel=0.10)


ZERO_BUBBLE = [
    # ranks, micro-batches; milliseconds of F, B, W and communication (table 9); samples in a
    # micro-batch, samples a second and GPU of 1F1B (table 4)
    (8, 24, 18.522, 18.086, 9.337, 0.601, 6, 11.8),
    (8, 32, 18.513, 18.086, 9.331, 0.626, 6, 12.5),
    (8, 64, 18.546, 18.097, 9.321, 0.762, 6, 13.6),
    (8, 24, 29.718, 29.444, 19.927, 0.527, 3, 3.50),
    (8, 32, 29.802, 29.428, 19.530, 0.577, 3, 3.70),
    (8, 64, 29.935, 29.621, 19.388, 0.535, 3, 4.03),
    (16, 48, 11.347, 11.248, 8.132, 0.377, 1, 1.40),
    (16, 64, 11.307, 11.254, 8.101, 0.379, 1, 1.49),
    (16, 128, 11.325, 11.308, 8.109, 0.378, 1, 1.64),
    (32, 96, 10.419, 10.207, 7.715, 0.408, 1, 0.76),
    (32, 128, 10.408, 10.204, 7.703, 0.408, 1, 0.80),
    (32, 256, 10.402, 10.248, 7.698, 0.460, 1, 0.88),
]
"""Qi et al., "Zero bubble pipeline parallelism" (2024), tables 4 and 9."""


@pytest.mark.parametrize("row", ZERO_BUBBLE)
def test_zero_bubbles_throughput_of_1f1b(row):
    ranks, micro_batches, forward, inputs, weights, latency, samples, measured = row
    schedule = make_schedule("1f1b", ranks, micro_batches)
    seconds = price(schedule, Costs(forward, inputs, weights, latency=latency)).makespan / 1e3
    assert micro_batches * samples / ranks / seconds == pytest.approx(measured, rel=0.10)


VTRAIN = [
    # GPUs, batch, micro-batch, width, heads, blocks, context, tp, dp, pp, milliseconds
    (64, 512, 8, 3072, 32, 30, 2048, 1, 64, 1, 3566.5),
    (64, 512, 16, 3072, 32, 30, 2048, 2, 32, 1, 3937.5),
    (64, 512, 32, 3072, 32, 30, 2048, 4, 16, 1, 4548.2),
    (64, 512, 2, 3072, 32, 30, 2048, 1, 32, 2, 4034.9),
    (64, 512, 32, 3072, 32, 30, 2048, 8, 8, 1, 4972.3),
    (64, 512, 2, 3072, 32, 30, 2048, 8, 8, 1, 8880.9),
    (64, 512, 4, 3072, 32, 30, 2048, 16, 4, 1, 11960.1),
    (256, 1024, 4, 6144, 48, 40, 2048, 8, 32, 1, 9927.6),
    (256, 1024, 2, 6144, 48, 40, 2048, 4, 32, 2, 10031.6),
    (256, 1024, 2, 6144, 48, 40, 2048, 8, 8, 4, 10926.4),
    (256, 1024, 32, 6144, 48, 40, 2048, 8, 4, 8, 16241.4),
    (512, 1536, 3, 8192, 64, 48, 2048, 4, 32, 4, 16185.5),
    (512, 1536, 3, 8192, 64, 48, 2048, 4, 16, 8, 17606.1),
    (512, 1536, 6, 8192, 64, 48, 2048, 4, 32, 4, 18532.1),
    (512, 1536, 12, 8192, 64, 48, 2048, 8, 32, 2, 17126.8),
    (512, 1536, 4, 8192, 64, 48, 2048, 4, 8, 16, 15585.5),
    (512, 1536, 4, 8192, 64, 48, 2048, 8, 16, 4, 14750.7),
    (512, 1536, 3, 8192, 64, 48, 2048, 8, 8, 8, 15270.7),
    (512, 1536, 12, 8192, 64, 48, 2048, 8, 16, 4, 17182.4),
    (512, 1536, 3, 8192, 64, 48, 2048, 8, 4, 16, 16360.8),
    (512, 1536, 6, 8192, 64, 48, 2048, 2, 16, 16, 27228.4),
    (512, 1536, 12, 8192, 64, 48, 2048, 8, 4, 16, 18568.3),
    (512, 1536, 2, 12288, 96, 96, 2048, 4, 8, 16, 54255.9),
    (512, 1536, 3, 12288, 96, 96, 2048, 4, 4, 32, 56297.2),
    (512, 1536, 3, 12288, 96, 96, 2048, 8, 8, 8, 56176.5),
    (512, 1536, 3, 12288, 96, 96, 2048, 8, 4, 16, 55677.5),
    (512, 1536, 3, 12288, 96, 96, 2048, 2, 8, 32, 64296.3),
    (512, 1536, 6, 12288, 96, 96, 2048, 8, 2, 32, 62636.8),
    (64, 512, 4, 3072, 32, 30, 2048, 1, 64, 1, 3638.3),
    (256, 1024, 8, 6144, 48, 40, 2048, 8, 4, 8, 11026.1),
    (512, 1536, 3, 8192, 64, 48, 2048, 1, 32, 16, 19991.0),
]
"""Every fourth row of data/ground_truth_multi.csv, VIA-Research/vTrain at f8dda84 (MIT licence;
Bang et al., MICRO 2024), and three more: Megatron-DeepSpeed on A100s. benchmarks/vtrain.py takes
the files."""


def test_vtrains_rows():
    benchmark = load(str(Path(__file__).parents[2] / "benchmarks" / "vtrain.py"))
    errors = []
    for row in VTRAIN:
        named = dict(zip(benchmark.FIELDS, row, strict=True))
        errors.append(benchmark.predicted(named, A100) / (named["milliseconds"] / 1e3) - 1)
    assert statistics.median(map(abs, errors)) < 0.06, errors
    assert statistics.mean(map(abs, errors)) < 0.08, errors


# The settings of Megatron's figures 13 to 17 (examples/sc21/run_figure_1*.sh), of which the paper
# prints no numbers: what wins must be what the paper found.


@pytest.mark.parametrize("batch", [32, 128])
def test_figure_13_tensor_parallelism_within_a_host_and_pipelines_beyond(batch):
    model = gpt("162b", 32, 20480, 128)
    speed = {t: step(model, {"tp": t, "pp": 64 // t}, batch).hfu for t in (2, 4, 8, 16, 32)}
    assert max(speed, key=speed.get) == 8


SMALL = gpt("5.9b", 32, 3840, 32)
DEGREES = (2, 4, 8, 16, 32)


@pytest.mark.parametrize("batch", [32, 128, 512])
@pytest.mark.parametrize(("figure", "axis"), [(14, "pp"), (15, "tp")])
def test_figures_14_and_15_data_parallelism_beats_model_parallelism_that_is_not_needed(
    figure, axis, batch
):
    fitting = [n for n in DEGREES if batch % (64 // n) == 0]
    speed = [step(SMALL, {axis: n, "dp": 64 // n}, batch).hfu for n in fitting]
    if batch > 32:  # with one micro-batch on each replica there is little to hide gradients behind
        assert speed == sorted(speed, reverse=True)
    assert min(speed[:2]) > max(speed[3:])


@pytest.mark.parametrize("batch", [128, 512])
def test_figure_16_a_micro_batch_of_2_is_best(batch):
    model = gpt("91b", 32, 15360, 128)
    speed = {b: step(model, {"tp": 8, "pp": 8}, batch, b).hfu for b in (1, 2, 4, 8)}
    assert max(speed, key=speed.get) == 2


def test_figure_17_recomputation_costs_up_to_a_third_and_fits_where_all_else_does_not():
    mesh = {"tp": 8, "pp": 16}
    again, kept = (
        {b: step(MODELS["gpt-145b"], mesh, b, recompute=what) for b in (1, 2, 4, 8, 16, 64)}
        for what in ("blocks", "")
    )
    for batch in again:
        assert 1.2 < again[batch].seconds / kept[batch].seconds < 1.4
        assert max(memory.total for memory in again[batch].memory) < 40e9
    peaks = [max(memory.total for memory in kept[batch].memory) for batch in again]
    assert peaks == sorted(peaks)
    assert peaks[-1] > 2.5 * max(memory.total for memory in again[64].memory)


@pytest.mark.parametrize("batch", [12, 36, 60])
def test_figures_12_and_18_interleaving_and_scattering_pay(batch):
    model, mesh = MODELS["gpt3-175b"], {"tp": 8, "pp": 12}
    plain, chunks = (step(model, mesh, batch, 1, v).hfu for v in (1, 4))
    whole = step(model, mesh, batch, 1, 4, replace(MEGATRON, scatter=False)).hfu
    assert chunks > plain
    assert chunks > whole


def test_figure_11_larger_batches_hide_deeper_pipelines():
    models = {p: gpt("deep", 3 * p, 20480, 128) for p in (1, 2, 4, 8)}
    speed = {
        batch: [step(models[p], {"tp": 8, "pp": p}, batch).hfu for p in models]
        for batch in (8, 128)
    }
    for found in speed.values():
        assert found == sorted(found, reverse=True)
    assert speed[128][-1] / speed[128][0] > speed[8][-1] / speed[8][0]
