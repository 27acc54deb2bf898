"""Blocks that fit the cache differ among processors, and no bit depends on them."""

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import caches
from ringlet.nn.autograd.operations import activations
from ringlet.nn.flat import FlatParameters
from ringlet.nn.optim import optimizer

BLOCKS = (16 << 10, 64 << 10)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_bits_of_a_step_are_the_same_with_every_block(monkeypatch, activation):
    x, found = np.random.default_rng(1).standard_normal((50, 800), dtype=np.float32), set()
    for block in BLOCKS:
        monkeypatch.setattr(activations, "BLOCK", block)
        monkeypatch.setattr(optimizer, "BLOCK", block)
        layer = nn.Linear(800, 60)
        flat = FlatParameters(layer)
        flat.data[:] = np.resize(x.reshape(-1), flat.size)
        update = nn.optim.AdamW(flat)
        y = getattr(nn.functional, activation)(nn.Tensor(x, requires_grad=True))
        layer(y).sum().backward()
        update.step()
        found.add((y.data.tobytes(), flat.data.tobytes()))
    assert len(found) == 1


@pytest.mark.parametrize(
    "text, elements",
    [("512K", 32 << 10), ("1024K", 64 << 10), ("64K", 16 << 10), ("8192K", 64 << 10)],
)
def test_a_block_follows_the_cache_within_bounds(monkeypatch, tmp_path, text, elements):
    path = tmp_path / "size"
    path.write_text(f"{text}\n")
    monkeypatch.setattr(caches, "_L2", path)
    assert caches.elementwise_block() == elements
    path.unlink()
    assert caches.elementwise_block() == 32 << 10  # as containers without /sys have it
