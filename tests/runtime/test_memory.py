"""The peak of a worker's memory is what the formula says, within 15 %."""

from pathlib import Path

import pytest

from ringlet.launcher.workers.warm import load
from ringlet.nn.models import GPT, GPTConfig
from ringlet.runtime.planning.footprint import (
    dense_parameters,
    embed_parameters,
    expert_parameters,
    head_parameters,
)

FILE = Path(__file__).parents[2] / "benchmarks" / "memory.py"
SIZES = {"vocab_size": 256, "block_size": 128, "n_layer": 8, "n_head": 4, "n_embd": 320}


@pytest.fixture(scope="module")
def benchmark():
    """The script that measures; it starts fresh workers for each case."""
    return load(str(FILE))


@pytest.mark.parametrize(
    "case",
    ["one process", pytest.param("ZeRO 1", marks=pytest.mark.slow), "ZeRO 2", "ZeRO 3",
     "recomputed blocks", pytest.param("GPipe, 2 ranks", marks=pytest.mark.slow),
     "1F1B, 2 ranks", "4 experts, 2 ranks"],
)  # fmt: skip
def test_the_peak_is_the_formulas(benchmark, case):
    # Only pipelines have several micro-batches in flight.
    micro = 4 if "pp" in benchmark.CASES[case][0] else 1
    for measured, formula in benchmark.measure(case, SIZES, samples=1, micro=micro):
        assert 0.85 < measured / formula < 1.15


@pytest.mark.parametrize("experts", [0, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_counted_right(bias, experts):
    sizes = GPTConfig(30, 16, n_layer=3, n_head=2, n_embd=8, bias=bias, n_expert=experts)
    model = GPT(sizes)
    block = dense_parameters(sizes) + expert_parameters(sizes)
    assert sum(p.size for p in model.blocks[0].parameters()) == block
    ends = embed_parameters(sizes) + head_parameters(sizes)
    assert model.num_parameters() == 3 * block + ends
