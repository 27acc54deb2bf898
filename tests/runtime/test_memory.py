"""The peak of a worker's memory is what the formula says, within 15 %."""

from pathlib import Path

import pytest

from ringlet.launcher.workers.warm import load
from ringlet.nn.models import GPT, T5, GPTConfig, Llama, LlamaConfig, T5Config
from ringlet.runtime.planning.models import model_of

KINDS = {GPTConfig: GPT, LlamaConfig: Llama, T5Config: T5}

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
     "1F1B, 2 ranks", pytest.param("4 experts, 2 ranks", marks=pytest.mark.slow), "Llama",
     pytest.param("Llama, tensor parallel", marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_peak_is_the_formulas(benchmark, case):
    # Only pipelines have several micro-batches in flight.
    micro = 4 if "pp" in benchmark.CASES[case][0] else 1
    for measured, formula in benchmark.measure(case, SIZES, samples=1, micro=micro):
        assert 0.85 < measured / formula < 1.15


CONFIGS = [
    GPTConfig(30, 16, n_layer=3, n_head=2, n_embd=8),
    GPTConfig(30, 16, n_layer=3, n_head=2, n_embd=8, bias=False, n_expert=3),
    LlamaConfig(30, 16, 24, 3, 4, 2, max_position_embeddings=16),
    LlamaConfig(30, 16, 24, 3, 4, tie_word_embeddings=True),
    LlamaConfig(30, 16, 24, 3, 4, 2, attention_bias=True),
    LlamaConfig(30, 16, 24, 3, 4, mlp_bias=True),
    LlamaConfig(30, 16, 24, 3, 4, 2, head_dim=6, qkv_bias=True, qk_norm=True, sliding_window=3),
    T5Config(30, 16, 4, 24, 2, 3, 4, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_parameters_are_counted_right(config):
    model = KINDS[type(config)](config)
    found = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(config, T5Config):  # tables of relative positions, a second last norm
        found -= sum(p.numel() for name, p in model.named_parameters() if "relative" in name)
        found -= config.d_model
    assert model_of(config).parameters == found
