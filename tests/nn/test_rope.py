"""Rotary positions that are stretched, beside the formulas and the transformers library's own."""

import math

import numpy as np
import pytest

from ringlet.nn.models.rope import longest_context, rotary_positions

ORIGINAL = {"original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}
CASES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {**LLAMA3, **ORIGINAL},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": YARN,
    "yarn's bounds": {**YARN, "beta_fast": 3, "beta_slow": 0.2, "truncate": False},
    "yarn's attention": {**YARN, "attention_factor": 0.7},
    "yarn's mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn of one bound": {**YARN, "beta_fast": 1e-9, "beta_slow": 1e-10},
}
WIDTH, THETA, CONTEXT = 16, 5000.0, 64


def tables(scaling, positions):
    rotary = rotary_positions(WIDTH, THETA, scaling, CONTEXT)
    return rotary.tables(positions, positions.shape[-1], np.dtype(np.float64))


@pytest.mark.parametrize("length", [7, 64, 65, 200])
@pytest.mark.parametrize("case", CASES)
def test_angles_are_the_library_s(case, length):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = library.LlamaConfig(
        hidden_size=2 * WIDTH, num_attention_heads=2, max_position_embeddings=CONTEXT,
        rope_parameters={"rope_theta": THETA, **CASES[case]},
    )  # fmt: skip
    positions = torch.arange(length)[None]
    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), positions)
    for own, other in zip(tables(CASES[case], np.arange(length)), theirs, strict=True):
        np.testing.assert_allclose(own, other[0, :, : WIDTH // 2].numpy(), atol=1e-4)


def test_yarn_pair_by_pair():
    """The paper's formulas: r turns in the original context, a ramp by the pair's number."""
    cos, sin = tables({**YARN, "beta_fast": 3.0, "beta_slow": 0.2}, np.arange(9))
    scale = 0.1 * math.log(4) + 1

    def pair_of(turns):
        return WIDTH * math.log(32 / (turns * 2 * math.pi)) / (2 * math.log(THETA))

    low, high = math.floor(pair_of(3.0)), math.ceil(pair_of(0.2))
    low = max(low, 0)
    for pair in range(WIDTH // 2):
        angle = THETA ** (-2 * pair / WIDTH)
        ramp = min(max((pair - low) / (high - low), 0), 1)
        angle = angle * (1 - ramp) + angle / 4 * ramp
        np.testing.assert_allclose(cos[:, pair], scale * np.cos(angle * np.arange(9)), atol=1e-12)
        np.testing.assert_allclose(sin[:, pair], scale * np.sin(angle * np.arange(9)), atol=1e-12)


def test_dynamic_angles_depend_on_each_row_s_length():
    rows = np.stack([np.arange(100), np.minimum(np.arange(100), 79)])[:, None]  # (B, 1, T)
    cos, _ = tables(CASES["dynamic"], rows)
    for row, length in zip(cos, (100, 80), strict=True):
        growth = 3.0 * length / CONTEXT - 2.0
        base = THETA * growth ** (WIDTH / (WIDTH - 2))
        angles = np.arange(length)[:, None] * base ** (-np.arange(0, WIDTH, 2) / WIDTH)
        np.testing.assert_allclose(row[0, :length], np.cos(angles), atol=1e-12)
    short = np.arange(CONTEXT)
    np.testing.assert_array_equal(tables(CASES["dynamic"], short), tables(None, short))


def test_how_far_positions_go():
    assert longest_context(None, 64) == 64
    assert longest_context({**YARN, "factor": 8.0}, 64) == 256
    assert longest_context(YARN, 200) == 200
    assert longest_context(CASES["dynamic"], 64) == 192
    assert longest_context(CASES["linear"], 64) == 64
