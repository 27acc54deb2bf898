"""The gradient of every operation against finite differences in float64, with broadcasting."""

import importlib
from functools import partial

import numpy as np
import pytest

from ringlet.nn import Tensor, gradcheck
from ringlet.nn import functional as F
from ringlet.nn import random as nn_random
from ringlet.nn.autograd.operations import products
from ringlet.nn.autograd.tensor import Operation

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.standard_normal(shape)


def positive(*shape):
    return RANDOM.random(shape) + 0.5


def distinct(*shape):
    """No two equal, none near 0: a maximum or a bound has one slope everywhere."""
    count = int(np.prod(shape))
    return (RANDOM.permutation(count) - count / 2 + 0.3).reshape(shape)


MASK = RANDOM.random((3, 4)) > 0.5
IDS = np.array([[0, 2, 2], [4, 0, 2]])
TARGETS = np.array([0, 4, 2, 4])
ANGLES = normal(5, 4)
COS, SIN = np.cos(ANGLES), np.sin(ANGLES)
GROUPED = partial(F.scaled_dot_product_attention, enable_gqa=True)
SOME_KEYS = np.array([[True, False, True, True, False], [False] * 5, [True] * 5])


def dropped(x):
    with nn_random.scope(seed=1, step=2):
        return F.dropout(x, 0.4, True, "here")


def dropped_attention(q, k, v):
    with nn_random.scope(seed=1, step=2):
        return GROUPED(q, k, v, dropout_p=0.4, path="here")


CASES = {
    "add": (lambda a, b: a + b, [normal(3, 4), normal(3, 4)]),
    "add broadcast": (lambda a, b: a + b, [normal(3, 1, 4), normal(2, 1)]),
    "add number": (lambda a: 2 + a + 1.5, [normal(3)]),
    "sub broadcast": (lambda a, b: a - b, [normal(4), normal(3, 4)]),
    "sub from number": (lambda a: 1 - a, [normal(3)]),
    "mul broadcast": (lambda a, b: a * b, [normal(2, 3, 1), normal(3, 4)]),
    "mul itself": (lambda a: a * a, [normal(3)]),
    "div broadcast": (lambda a, b: a / b, [normal(3, 4), positive(4)]),
    "div by number": (lambda a: a / 3, [normal(3)]),
    "div number": (lambda a: 3 / a, [positive(3)]),
    "pow": (lambda a: a**3, [normal(3, 2)]),
    "pow fraction": (lambda a: a**-0.5, [positive(3, 2)]),
    "neg": (lambda a: -a, [normal(3)]),
    "exp": (lambda a: a.exp(), [normal(3, 4)]),
    "log": (lambda a: a.log(), [positive(3, 4)]),
    "sqrt": (lambda a: a.sqrt(), [positive(3, 4)]),
    "sin": (F.sin, [normal(5)]),
    "cos": (F.cos, [normal(5)]),
    "tanh": (lambda a: a.tanh(), [normal(3, 4)]),
    "sigmoid": (lambda a: a.sigmoid(), [normal(3, 4)]),
    "relu": (lambda a: a.relu(), [distinct(3, 4)]),
    "abs": (lambda a: a.abs(), [distinct(3, 4)]),
    "clamp": (lambda a: a.clamp(-2.0, 2.0), [distinct(3, 4)]),
    "clamp below": (lambda a: a.clamp(min=0.0), [distinct(3, 4)]),
    "maximum": (F.maximum, [distinct(3, 4), normal(4) + 0.123]),
    "minimum": (F.minimum, [distinct(3, 4), normal(3, 1) + 0.123]),
    "where": (lambda a, b: F.where(MASK, a, b), [normal(3, 4), normal(4)]),
    "sum": (lambda a: a.sum(), [normal(3, 4)]),
    "sum axis": (lambda a: a.sum(1), [normal(3, 4, 2)]),
    "sum axes": (lambda a: a.sum((0, -1), keepdim=True), [normal(3, 4, 2)]),
    "mean": (lambda a: a.mean(), [normal(3, 4)]),
    "mean axis": (lambda a: a.mean(-1, keepdim=True), [normal(3, 4)]),
    "var": (lambda a: a.var(), [normal(3, 4)]),
    "var axis": (lambda a: a.var(0, correction=0), [normal(3, 4)]),
    "max": (lambda a: a.max(), [distinct(3, 4)]),
    "max axis": (lambda a: a.amax(1), [distinct(3, 4)]),
    "min axis": (lambda a: a.amin(0, keepdim=True), [distinct(3, 4)]),
    "reshape": (lambda a: a.reshape(2, -1), [normal(3, 4)]),
    "transpose": (lambda a: a.transpose(0, -1), [normal(3, 4, 2)]),
    "permute": (lambda a: a.permute(2, 0, -2), [normal(3, 4, 2)]),
    "expand": (lambda a: a.expand(5, -1, 4), [normal(3, 1)]),
    "squeeze": (lambda a: a.squeeze(1), [normal(3, 1, 2)]),
    "unsqueeze": (lambda a: a.unsqueeze(-1), [normal(3, 2)]),
    "split": (lambda a: a.split(2, 1)[1] * 2, [normal(3, 5)]),
    "cat": (lambda a, b: F.cat([a, b, a], 1), [normal(3, 2), normal(3, 1)]),
    "stack": (lambda a, b: F.stack([a, b], -1), [normal(3, 2), normal(3, 2)]),
    "slice": (lambda a: a[1:, ::2], [normal(3, 5)]),
    "slice backwards": (lambda a: a[::-1, None, 0], [normal(3, 5)]),
    "index numbers": (lambda a: a[IDS], [normal(5, 2)]),
    "index pairs": (lambda a: a[np.array([0, 0, 1]), np.array([1, 1, 0])], [normal(2, 2)]),
    "index mask": (lambda a: a[MASK], [normal(3, 4)]),
    "masked_fill": (lambda a: a.masked_fill(MASK, 7.0), [normal(3, 4)]),
    "matmul": (lambda a, b: a @ b, [normal(3, 4), normal(4, 2)]),
    "matmul batched": (lambda a, b: a @ b, [normal(2, 1, 3, 4), normal(5, 4, 2)]),
    "matmul vectors": (lambda a, b: a @ b, [normal(4), normal(4)]),
    "matmul vector left": (lambda a, b: a @ b, [normal(4), normal(2, 4, 3)]),
    "matmul vector right": (lambda a, b: a @ b, [normal(2, 3, 4), normal(4)]),
    "linear": (F.linear, [normal(2, 3, 4), normal(5, 4), normal(5)]),
    "linear without bias": (lambda x, w: F.linear(x, w), [normal(3, 4), normal(5, 4)]),
    "linear of a vector": (lambda x, w: F.linear(x, w), [normal(4), normal(5, 4)]),
    "softmax": (lambda a: a.softmax(), [normal(3, 4)]),
    "softmax axis": (lambda a: a.softmax(0), [normal(3, 4)]),
    "log_softmax": (lambda a: a.log_softmax(1), [normal(3, 4)]),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, 4, w, b),
        [normal(2, 5, 4), normal(4), normal(4)],
    ),
    "layer_norm many rows": (
        lambda x, w, b: F.layer_norm(x, 3, w, b),
        [normal(70, 3), normal(3), normal(3)],
    ),
    "layer_norm two axes": (
        lambda x, w, b: F.layer_norm(x, (2, 3), w, b),
        [normal(4, 2, 3), normal(2, 3), normal(2, 3)],
    ),
    "rms_norm": (lambda x, w: F.rms_norm(x, 4, w, 1e-5), [normal(2, 5, 4), normal(4)]),
    "rms_norm two axes": (
        lambda x, w: F.rms_norm(x, (2, 3), w),
        [normal(4, 2, 3), normal(2, 3)],
    ),
    "silu": (F.silu, [2 * normal(3, 4)]),
    "swiglu": (F.swiglu, [2 * normal(3, 4), normal(3, 4)]),
    "rotary": (lambda x: F.rotary_embedding(x, COS, SIN), [normal(2, 3, 5, 8)]),
    "rotary interleaved": (
        lambda x: F.rotary_embedding(x, COS, SIN, interleaved=True),
        [normal(2, 5, 9)],
    ),
    "gelu": (lambda a: F.gelu(a), [2 * normal(3, 4)]),
    "gelu tanh": (lambda a: F.gelu(a, "tanh"), [2 * normal(3, 4)]),
    "attention": (
        F.scaled_dot_product_attention,
        [normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4)],
    ),
    "attention causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [normal(1, 2, 4, 3), normal(1, 2, 4, 3), normal(1, 2, 4, 3)],
    ),
    "attention after a cache": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [normal(1, 2, 2, 3), normal(1, 2, 5, 3), normal(1, 2, 5, 3)],
    ),
    "attention to some keys": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, SOME_KEYS),
        [normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 6)],
    ),
    "attention with a bias": (
        lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, bias, is_causal=True),
        [normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4), normal(2, 1, 5)],
    ),
    "attention of groups": (
        lambda q, k, v, bias: GROUPED(q, k, v, bias, scale=0.3),
        [normal(2, 6, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 3), normal(2, 1, 3, 1)],
    ),
    "attention of one head": (
        F.scaled_dot_product_attention,
        [normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 4), normal(2, 3, 5)],
    ),
    "attention with dropout": (dropped_attention, [normal(2, 4, 3, 4)] + [normal(2, 2, 5, 4)] * 2),
    "self-attention": (lambda x: F.packed_self_attention(x, 2), [normal(2, 4, 12)]),
    "self-attention both ways": (
        lambda x: F.packed_self_attention(x, 2, is_causal=False),
        [normal(2, 3, 12)],
    ),
    "cross_entropy": (lambda x: F.cross_entropy(x, TARGETS), [normal(4, 5)]),
    "cross_entropy sum": (lambda x: F.cross_entropy(x, TARGETS, reduction="sum"), [normal(4, 5)]),
    "cross_entropy ignoring": (
        lambda x: F.cross_entropy(x, TARGETS, ignore_index=4),
        [normal(4, 5)],
    ),
    "cross_entropy batched": (
        lambda x: F.token_cross_entropy(x, TARGETS.reshape(2, 2)),
        [normal(2, 2, 5)],
    ),
    "cross_entropy of each": (
        lambda x: F.cross_entropy(x, TARGETS, reduction="none"),
        [normal(4, 5)],
    ),
    "cross_entropy smoothed, weighted": (
        lambda x: F.cross_entropy(x, TARGETS, np.arange(1, 6), ignore_index=2, label_smoothing=0.2),
        [normal(4, 5)],
    ),
    "linear_cross_entropy": (
        lambda x, w: F.linear_cross_entropy(x, w, TARGETS),
        [normal(4, 3), normal(5, 3)],
    ),
    "linear_cross_entropy smoothed, weighted": (
        lambda x, w, b: F.linear_cross_entropy(
            x.reshape(2, 2, 3),
            w,
            TARGETS.reshape(2, 2),
            linear_bias=b,
            weight=np.arange(1, 6),
            ignore_index=2,
            label_smoothing=0.2,
        ),
        [normal(4, 3), normal(5, 3), normal(5)],
    ),
    "embedding": (lambda w: F.embedding(IDS, w), [normal(5, 3)]),
    "dropout": (dropped, [normal(3, 8)]),
}


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_of_finite_differences(case):
    function, inputs = CASES[case]
    gradcheck(function, inputs)


def test_attention_of_several_blocks_is_that_of_one(monkeypatch):
    x = normal(2, 9, 12)
    whole = F.packed_self_attention(Tensor(x), 2).data
    attention = importlib.import_module("ringlet.nn.autograd.operations.tiled_attention")
    monkeypatch.setattr(attention, "ROWS", 4)
    monkeypatch.setattr(attention, "SCORES", 1)
    monkeypatch.setattr(attention.GemmOperand, "FROM", 2)
    monkeypatch.setattr(attention.GemmOperand, "STEP", 4)
    for kept in (100, 0):  # the exponentials are kept, or made again
        monkeypatch.setattr(attention, "KEPT", kept)
        np.testing.assert_allclose(F.packed_self_attention(Tensor(x), 2).data, whole, atol=1e-12)
        gradcheck(lambda x: F.packed_self_attention(x, 2), [x])
        gradcheck(
            lambda q, k, v, bias: GROUPED(q, k, v, bias, is_causal=True),
            [normal(2, 4, 6, 3), normal(2, 2, 8, 3), normal(2, 2, 8, 3), normal(4, 1, 8)],
        )


@pytest.mark.parametrize("kept", [100, 0])
@pytest.mark.parametrize("offset", [0, 300, -300])
def test_attention_with_scores_beyond_the_range_of_exponentials(monkeypatch, kept, offset):
    attention = importlib.import_module("ringlet.nn.autograd.operations.tiled_attention")
    monkeypatch.setattr(attention, "ROWS", 4)
    monkeypatch.setattr(attention, "SCORES", 32)
    monkeypatch.setattr(attention, "KEPT", kept)
    q, k, v = (normal(1, 1, 9, 4).astype(np.float32) for _ in range(3))
    q[..., 0], k[..., 0] = 2, offset  # the same number is added to every score of a query

    def results(added):
        k[..., 0] = added
        inputs = [Tensor(x, requires_grad=True) for x in (q, k, v)]
        y = F.scaled_dot_product_attention(*inputs, is_causal=True)
        (y * y).sum().backward()
        return y.data, inputs[2].grad

    for found, expected in zip(results(offset), results(0), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_normalization_of_several_blocks_is_that_of_one(monkeypatch):
    normalization = importlib.import_module("ringlet.nn.autograd.operations.normalization")
    inputs = [normal(11, 3), normal(3), normal(3)]

    def both(x, weight, bias):
        return F.layer_norm(x, 3, weight, bias) + F.rms_norm(x, 3, weight)

    whole = both(*map(Tensor, inputs)).data
    monkeypatch.setattr(normalization, "BLOCK", 12)
    np.testing.assert_allclose(both(*map(Tensor, inputs)).data, whole, atol=1e-12)
    gradcheck(both, inputs)


def test_gradcheck_finds_a_wrong_gradient():
    class Wrong(Operation):
        def forward(self, *arrays):
            return arrays[0] ** 2

        def backward(self, grad):
            return (grad,)

    with pytest.raises(AssertionError, match=r"input 0 at \(\d,\)"):
        gradcheck(lambda x: Wrong()(x), [normal(3)])


def test_column_sums():
    x = normal(7, 3)
    np.testing.assert_allclose(products.column_sums(x), x.sum(0))
