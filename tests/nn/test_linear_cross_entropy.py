"""The head and its loss in one: the numbers of the two apart, in blocks, and less memory."""

import importlib
import tracemalloc

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import functional as F
from ringlet.nn.models import BERT, GPT, T5, BERTConfig, GPTConfig, Llama, LlamaConfig, T5Config

fused = importlib.import_module("ringlet.nn.autograd.operations.linear_cross_entropy")  # the file

ROWS, WIDTH, VOCABULARY = 23, 5, 11
RANDOM = np.random.default_rng(3)
X, WEIGHT, BIAS = (RANDOM.standard_normal(s) for s in ((ROWS, WIDTH), (VOCABULARY, WIDTH), (11,)))
TARGETS = RANDOM.integers(0, VOCABULARY, ROWS)
TARGETS[[0, 5, 6, 22]] = -100
CLASSES = np.arange(VOCABULARY) / 4
SLOPES = RANDOM.standard_normal(ROWS)

BLOCKS = {
    # name: smallest block, logits of a block, summands of the weight's gradient
    "one block": (64, 1 << 22, 1 << 22),
    "one block, in parts": (64, 1 << 22, 3 * WIDTH),
    "blocks, logits kept": (10, 1, 1 << 22),
    "blocks": (4, 1, 1 << 22),
    "blocks of a row, in parts": (1, 1, 3 * WIDTH),
}

OPTIONS = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "smoothed": {"label_smoothing": 0.3},
    "weighted": {"weight": CLASSES},
    "all of them": {"weight": CLASSES, "label_smoothing": 0.1, "reduction": "none"},
    "another index": {"ignore_index": 4},
}


def in_blocks(monkeypatch, name):
    rows, logits, summands = BLOCKS[name]
    monkeypatch.setattr(fused, "ROWS", rows)
    monkeypatch.setattr(fused, "LOGITS", logits)
    monkeypatch.setattr("ringlet.nn.autograd.deferred.SUMMANDS", summands)


def apart(x, linear_weight, targets, *, linear_bias=None, **options):
    return F.cross_entropy(F.linear(x, linear_weight, linear_bias), targets, **options)


def results(function, dtype=np.float64, bias=True, learning=(True, True, True), **options):
    """The loss and the gradients; the loss is scaled, and has been added to gradients before."""
    arrays = (X, WEIGHT, BIAS)
    x, weight, b = (
        nn.Tensor(array.astype(dtype), requires_grad=learns)
        for array, learns in zip(arrays, learning, strict=True)
    )
    targets = np.where(TARGETS == -100, options.get("ignore_index", -100), TARGETS)
    for scale in (0.5, -3.0):
        loss = function(x, weight, targets, linear_bias=b if bias else None, **options)
        slope = SLOPES[: loss.numel()].reshape(loss.shape).astype(dtype)
        (loss * nn.Tensor(slope) * scale).sum().backward()
    return [loss.data] + [tensor.grad for tensor in (x, weight, b) if tensor.grad is not None]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_it_is_the_layer_and_the_loss(blocks, options, monkeypatch):
    in_blocks(monkeypatch, blocks)
    for bias in (True, False):
        expected = results(apart, bias=bias, **OPTIONS[options])
        actual = results(F.linear_cross_entropy, bias=bias, **OPTIONS[options])
        assert len(actual) == len(expected) == 3 + bias
        for mine, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float16, 2e-2)])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_dtypes_stay_and_bits_repeat(blocks, dtype, tolerance, monkeypatch):
    in_blocks(monkeypatch, blocks)
    expected, first, again = (
        results(function, dtype) for function in (apart, *[F.linear_cross_entropy] * 2)
    )
    for other, mine, repeated in zip(expected, first, again, strict=True):
        assert mine.dtype == dtype and mine.tobytes() == repeated.tobytes()
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("blocks", BLOCKS)
def test_what_is_frozen_gets_no_gradient(blocks, number, monkeypatch):
    in_blocks(monkeypatch, blocks)
    for learning in (np.arange(3) == number, np.arange(3) != number):
        expected, actual = (
            results(function, learning=learning.tolist())
            for function in (apart, F.linear_cross_entropy)
        )
        assert len(actual) == 1 + learning.sum()
        for mine, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_gradients_are_those_of_finite_differences(blocks, monkeypatch):
    in_blocks(monkeypatch, blocks)

    def loss(x, weight, bias):
        options = {"label_smoothing": 0.1, "weight": CLASSES}
        return F.linear_cross_entropy(x, weight, TARGETS, linear_bias=bias, **options)

    nn.gradcheck(loss, [nn.Tensor(each) for each in (X, WEIGHT, BIAS)])


def test_nothing_that_counts_is_no_loss():
    ignored = np.full(ROWS, -100)
    x, weight = (nn.Tensor(each, requires_grad=True) for each in (X, WEIGHT))
    loss = F.linear_cross_entropy(x, weight, ignored)
    loss.backward()
    assert loss.item() == 0 and not x.grad.any() and not weight.grad.any()


def test_what_does_not_fit_is_refused():
    x, weight = nn.Tensor(X), nn.Tensor(WEIGHT)
    with pytest.raises(IndexError, match="target 11 is out of range for a vocabulary of 11"):
        F.linear_cross_entropy(x, weight, np.full(ROWS, 11))
    with pytest.raises(ValueError, match=r"\(23, 5\) and weight of \(11, 4\) do not match"):
        F.linear_cross_entropy(x, nn.Tensor(WEIGHT[:, 1:]), TARGETS)
    with pytest.raises(ValueError, match=r"\(23, 11\) and targets of \(22,\) do not match"):
        F.linear_cross_entropy(x, weight, TARGETS[1:])
    with pytest.raises(ValueError, match="reduction is 'most'"):
        F.linear_cross_entropy(x, weight, TARGETS, reduction="most")


def test_logits_are_never_whole():
    """Of 600 rows and 20,000 words they would take 46 MiB, twice of which two operations take."""
    x = nn.Tensor(RANDOM.standard_normal((600, 16)).astype(np.float32), requires_grad=True)
    weight = nn.Parameter(RANDOM.standard_normal((20_000, 16)).astype(np.float32))
    targets = RANDOM.integers(0, 20_000, 600)
    peaks = []
    for function in (apart, F.linear_cross_entropy):
        x.grad = weight.grad = None
        tracemalloc.start()
        function(x, weight, targets).backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    block = fused.ROWS * 20_000 * 4
    assert peaks[0] > 2 * 600 * 20_000 * 4
    assert peaks[1] < 1.1 * (block + 3 * weight.data.nbytes)


# -- in models ---------------------------------------------------------------------------------

IDS, NEXT = RANDOM.integers(0, 13, (2, 3, 8))
NEXT[0, :3] = -100
MODELS = {
    "gpt": lambda: GPT(GPTConfig(13, 8, 2, 2, 8)),
    "llama": lambda: Llama(LlamaConfig(13, 8, 16, 2, 2)),
    "bert": lambda: BERT(BERTConfig(13, 8, 2, 2, 16, "gelu", 0.0, 0.0, 8)),
    "t5": lambda: T5(T5Config(13, 8, 4, 16, 2, num_heads=2, dropout_rate=0.0)),
}


def trained(model):
    """The loss, the gradients, and the operations that took part."""
    seen = []
    with nn.watch.watching(lambda operation, *rest: seen.append(type(operation).__name__)):
        loss = model(IDS, NEXT)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}, seen


@pytest.mark.parametrize("name", MODELS)
def test_models_use_it_unless_somebody_looks_at_the_logits(name, monkeypatch):
    in_blocks(monkeypatch, "blocks")
    loss, gradients, operations = trained(MODELS[name]())
    assert "LinearCrossEntropy" in operations and "CrossEntropy" not in operations
    model, shapes = MODELS[name](), []
    model.output.register_forward_hook(lambda module, given, logits: shapes.append(logits.shape))
    watched, expected, operations = trained(model)
    assert shapes == [(3, 8, 13)] and "CrossEntropy" in operations
    assert watched == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_recomputed_or_adapted_head_works():
    expected = trained(MODELS["llama"]())[0]
    recomputed = MODELS["llama"]()
    recomputed.output.recompute = True
    assert trained(recomputed)[0] == pytest.approx(expected, rel=1e-6)
    adapted = MODELS["llama"]()
    nn.add_lora(adapted, "lm_head", rank=2)
    loss, gradients, _ = trained(adapted)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert gradients["lm_head.lora_B.weight"].any() and gradients["lm_head.weight"] is None
