"""The simulator against published runs: a table of what it says and what was measured.

    python benchmarks/published.py

All inputs are here, with their sources. Constants belong to the machine (the shipped descriptions
of clusters) or to the program, none to a row. docs/explanation/simulation.md has the table;
tests/runtime/test_published.py holds it to its bounds; benchmarks/vtrain.py takes whole files.
"""

import statistics
from dataclasses import replace
from typing import NamedTuple

import vtrain

from ringlet.runtime import MODELS, Parallelism, Setting, load_cluster, simulate
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.schedules import make_schedule
from ringlet.runtime.planning.costs import model_flops
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.footprint import footprints
from ringlet.runtime.planning.setting import MEGATRON, MIXED_FLOAT32_GRADIENTS, Program

SELENE, A100, H100 = (Fabric(load_cluster(name)) for name in ("selene", "a100", "h100-roce"))
PEAK = 312e12
GIB = 2**30


class Row(NamedTuple):
    """One published figure."""

    label: str
    found: float
    measured: float

    @property
    def error(self):
        """Relative."""
        return self.found / self.measured - 1


def megatron_setting(
    mesh, batch, micro_batch=1, chunks=1, program=MEGATRON, recompute="blocks", **more
):
    """A setting as Megatron-LM has them."""
    options = Parallelism(
        recompute=(recompute,) if recompute else (),
        schedule="interleaved" if chunks > 1 else "1f1b",
        chunks=chunks,
        **more,
    )
    return Setting(mesh, batch, micro_batch, options, program)


def on_selene(model, *arguments, **more):
    """A simulated step there."""
    setting = megatron_setting(*arguments, **more)
    return simulate(model, SELENE.cluster, setting, fabric=SELENE)


def speed_row(name, ranks, found, measured):
    """A row of TFLOP/s a GPU, with what is computed again."""
    return Row(f"{name}, {ranks} GPUs", found.hfu * PEAK / 1e12, measured)


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


def table_1():
    """TFLOP/s a GPU."""
    for name, tp, pp, ranks, batch, micro_batch, chunks, ddp, measured in TABLE_1:
        mesh = {"tp": tp, "pp": pp, "dp": ranks // tp // pp}
        program = TORCH if ddp == "torch" else MEGATRON
        found = on_selene(MODELS[name], mesh, batch, micro_batch, chunks, program)
        yield speed_row(name, ranks, found, measured)


TABLE_2 = [
    ("gpt3-175b", 12, 384, 1536, 153),
    ("gpt3-175b", 12, 768, 1536, 149),
    ("gpt3-175b", 12, 1536, 1536, 141),
    ("gpt-530b", 35, 560, 2240, 171),
    ("gpt-530b", 35, 1120, 2240, 167),
    ("gpt-530b", 35, 2240, 2240, 159),
]
"""The same, table 2, rows "PTD-P": tp 8, micro-batch 1."""


def table_2():
    """TFLOP/s a GPU."""
    for name, pp, ranks, batch, measured in TABLE_2:
        mesh = {"tp": 8, "pp": pp, "dp": ranks // 8 // pp}
        found = on_selene(MODELS[name], mesh, batch)
        yield speed_row(name, ranks, found, measured)


ZERO_3 = [
    ("gpt3-175b", 384, 1536, 4, 144),
    ("gpt3-175b", 768, 1536, 2, 88),
    ("gpt3-175b", 1536, 1536, 1, 44),
    ("gpt-530b", 640, 2560, 4, 138),
    ("gpt-530b", 1120, 2240, 2, 98),
    ("gpt-530b", 2240, 2240, 1, 48),
]
"""The same, rows "ZeRO-3": DeepSpeed with data parallelism alone."""


def table_2_zero_3():
    """TFLOP/s a GPU. Rings over all ranks leave each host by one of its eight cards, as if
    DeepSpeed had had one."""
    fabric = Fabric(replace(SELENE.cluster, algorithms="all_gather=ring,reduce_scatter=ring"))
    for name, ranks, batch, micro_batch, measured in ZERO_3:
        setting = megatron_setting({"dp": ranks}, batch, micro_batch, zero=3)
        found = simulate(MODELS[name], fabric.cluster, setting, fabric=fabric)
        yield speed_row(name, ranks, found, measured)


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


def table_5():
    """Seconds a step."""
    for name, pp, micro_batch, batch, chunks, full, selective in TABLE_5:
        arguments = MODELS[name], {"tp": 8, "pp": pp}, batch, micro_batch, chunks, OVERLAPPED
        yield Row(f"{name}, full", on_selene(*arguments).seconds, full)
        saved = on_selene(*arguments, "*.attend", sequence=True)
        yield Row(f"{name}, selective", saved.seconds, selective)


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


def figure_1():
    """GiB: activations without and with what saves them, and the state of a rank in the middle."""
    program = replace(MEGATRON, precision=MIXED_FLOAT32_GRADIENTS)
    for name, pp, micro_batch, batch, chunks, kept, plain, saved in FIGURE_1:
        for what, recompute, sequence, activations in (
            ("plain", "", False, plain),
            ("saved", "*.attend", True, saved),
        ):
            setting = megatron_setting(
                {"tp": 8, "pp": pp}, batch, micro_batch, chunks, program, recompute,
                sequence=sequence,
            )  # fmt: skip
            ranks = footprints(MODELS[name], setting)
            yield Row(f"{name}, {what}", ranks[0].activations / GIB, activations)
        state = statistics.median(f.parameters + f.gradients + f.optimizer for f in ranks)
        yield Row(f"{name}, state", state / GIB, kept)


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


def llama_3():
    """TFLOP/s a GPU. Not in the paper: micro-batches of 1, and a block to a stage. Its "first and
    last stage have one layer less" makes 126 blocks of 128 stages. FLOPs without the scores that a
    mask hides."""
    options = Parallelism(zero=1, sequence=True, schedule="interleaved", chunks=8)
    for context, cp, dp, samples, measured in LLAMA_3:
        model = replace(MODELS["llama3-405b"], context=context)
        mesh, batch = {"tp": 8, "cp": cp, "pp": 16, "dp": dp}, samples * dp
        setting = Setting(mesh, batch, 1, options, LLAMA, cuts=(0, *[1] * 126, 0))
        found = simulate(model, H100.cluster, setting, fabric=H100)
        speed = model_flops(model, batch, masked=False) / found.seconds / setting.ranks
        yield Row(f"{setting.ranks} GPUs, contexts of {context}", speed / 1e12, measured)


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


def zero_bubble():
    """Samples a second and GPU."""
    for ranks, micro_batches, forward, inputs, weights, latency, samples, measured in ZERO_BUBBLE:
        schedule = make_schedule("1f1b", ranks, micro_batches)
        seconds = price(schedule, Costs(forward, inputs, weights, latency=latency)).makespan / 1e3
        found = micro_batches * samples / ranks / seconds
        yield Row(f"{ranks} ranks, {micro_batches} micro-batches", found, measured)


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


def vtrain_rows():
    """Seconds a step."""
    for row in VTRAIN:
        named = dict(zip(vtrain.FIELDS, row, strict=True))
        label = ", ".join(f"{name}={named[name]}" for name in ("width", "tp", "dp", "pp"))
        label += f", micro-batch {named['micro_batch']}"
        yield Row(label, vtrain.predicted(named, A100), named["milliseconds"] / 1e3)


TABLES = {
    "Megatron-LM, table 1": table_1,
    "Megatron-LM, table 2": table_2,
    "Megatron-LM, table 2, ZeRO-3": table_2_zero_3,
    "Korthikanti et al., table 5": table_5,
    "Korthikanti et al., figure 1": figure_1,
    "Llama 3, table 4": llama_3,
    "Zero bubble, table 4, 1F1B": zero_bubble,
    "vTrain, 31 rows of several hosts": vtrain_rows,
}


def main():
    """Print the tables in Markdown."""
    print("| | rows | mean | median | worst |\n|---|---|---|---|---|")
    found = {name: list(table()) for name, table in TABLES.items()}
    for name, rows in found.items():
        sizes = [abs(row.error) for row in rows]
        worst = max(rows, key=lambda row: abs(row.error)).error
        print(
            f"| {name} | {len(rows)} | {statistics.mean(sizes):.1%} "
            f"| {statistics.median(sizes):.1%} | {worst:+.1%} |"
        )
    for name, rows in found.items():
        print(f"\n{name}: {TABLES[name].__doc__.split('.')[0]}\n")
        print("| | simulated | measured | error |\n|---|---|---|---|")
        for row in rows:
            print(f"| {row.label} | {row.found:.4g} | {row.measured:.4g} | {row.error:+.1%} |")


if __name__ == "__main__":
    main()
