"""The heart of nn on a device whose library forbids that host and device mix; see strict.py."""

from pathlib import Path

import numpy as np
import pytest

from ringlet import nn
from ringlet.launcher.workers.warm import load
from ringlet.nn import backend

pytest.importorskip("array_api_strict", reason="array-api-strict is not installed (extra test)")
if np.__version__.startswith("1."):
    pytest.skip("array-api-strict needs NumPy 2", allow_module_level=True)

HERE = Path(__file__).parent

cases, compare, strict = (
    load(str(HERE / name)) for name in ("torch/cases.py", "torch/compare.py", "strict.py")
)


@pytest.fixture
def device():
    with backend.substituted(strict.Device()) as present:
        yield present


NOT_COVERED = {
    "logsumexp", "cumsum", "prod", "prod axis", "repeat", "repeat_interleave", "cat", "roll", "pad",
    "index new axis", "index mask", "masked_select", "all any", "clamp", "clamp above", "max",
    "min", "max axis", "min axis", "amax", "amin", "argmax", "sort", "topk", "topk smallest",
    "norm infinity", "tril", "triu", "index pairs", "index column", "gather", "scatter",
    "scatter_add", "index_select", "einsum product", "einsum implicit", "einsum trace",
    "einsum diagonal", "einsum sums", "einsum ellipsis", "einsum of three", "nll_loss",
    "nll_loss of images", "nll_loss weighted", "cumprod", "cumprod with zeros", "normalize", "axis",
    "nonzero", "index 0-d",
}  # fmt: skip
"""Cases that need what the standard, or its writing to arrays, lacks: all, any, argmax, argsort,
clip, cumulative products, einsum, pad, split, tile, indices with arrays among slices, and sums
into places. The stand-in for CuPy covers them."""


@pytest.mark.parametrize("name", [name for name in cases.CASES if name not in NOT_COVERED])
def test_values_and_gradients_are_numpys(name, request):
    expected = compare.evaluate(compare.Ringlet, cases.CASES[name], cases.Draw(name, 0))
    request.getfixturevalue("device")
    actual = compare.evaluate(compare.Ringlet, cases.CASES[name], cases.Draw(name, 0))
    for mine, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-7)


def test_what_is_left_out_is_there():
    assert set(cases.CASES) > NOT_COVERED
    assert len(NOT_COVERED) < len(cases.CASES) / 4


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_optimizers_take_numpys_steps(name, request):
    options = cases.OPTIMIZERS[name]
    (expected,) = compare.optimized(compare.Ringlet, name, options, cases.Draw(name, 0))
    request.getfixturevalue("device")
    (actual,) = compare.optimized(compare.Ringlet, name, options, cases.Draw(name, 0))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def trained(make):
    """The losses of a few steps, and what the model says afterwards."""
    model = make()
    flat = nn.FlatParameters(model)
    optimizer, losses = nn.optim.AdamW(flat, 1e-2), []
    for step in range(3):
        ids = np.random.default_rng(step).integers(0, 13, (2, 9))
        flat.zero_grad()
        with nn.random.scope(seed=1, step=step):
            loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.optim.clip_grad_norm_(flat, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, nn.models.generate(model, ids[:, :3], 5, temperature=0)


MODELS = {
    "gpt": lambda: nn.models.GPT(nn.models.GPTConfig(13, 8, 2, 2, 8, dropout=0.1)),
    "llama": lambda: nn.models.Llama(nn.models.LlamaConfig(13, 8, 16, 2, 2, 1)),
    "qwen": lambda: nn.models.Llama(
        nn.models.LlamaConfig(13, 8, 16, 2, 2, 1, qk_norm=True, sliding_window=3)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_train_and_generate_as_on_numpy(name, request):
    losses, ids = trained(MODELS[name])
    request.getfixturevalue("device")
    on_device = trained(MODELS[name])
    np.testing.assert_allclose(on_device[0], losses, rtol=1e-5)
    np.testing.assert_array_equal(on_device[1], ids)


def test_host_and_device_do_mix_nowhere(device):
    """The library itself refuses what slips through."""
    x = nn.Tensor(np.ones(3, np.float32))
    with pytest.raises(nn.MixedArrays):
        x + np.ones(3, np.float32)
    with pytest.raises(RuntimeError, match="device1"):
        np.asarray(x.data.strict)
    other = strict.strict.ones(3, dtype=strict.strict.float32)
    with pytest.raises(ValueError, match="two different devices"):
        strict.strict.add(x.data.strict, other)
