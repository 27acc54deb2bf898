"""Tensors without axes, and without elements: values, gradients and refusals as PyTorch's."""

import importlib.util
import math
import warnings

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import Tensor

NAN, INF = math.nan, math.inf
F = nn.functional


def ids(*shape):
    return np.zeros(shape, np.int64)


def empty(*shape):
    return Tensor(np.ones(shape))


LITERAL = {  # the function, its input, its value and the gradient of its sum
    "sum": (lambda x: x.sum(), [], 0, []),
    "mean": (lambda x: x.mean(), [], NAN, []),
    "mean of axis": (lambda x: x.mean(1), np.ones((2, 0)), [NAN, NAN], np.ones((2, 0))),
    "prod": (lambda x: x.prod(), [], 1, []),
    "var": (lambda x: x.var(), [], NAN, []),
    "std of one": (lambda x: x.std(), 2, NAN, NAN),
    "norm": (lambda x: x.norm(), [], 0, []),
    "logsumexp": (lambda x: x.logsumexp(0), [], -INF, []),
    "softmax": (lambda x: x.softmax(0), [], [], []),
    "log_softmax": (lambda x: x.log_softmax(-1), np.ones((2, 0)), np.ones((2, 0)), np.ones((2, 0))),
    "cumsum": (lambda x: x.cumsum(0), [], [], []),
    "cat with nothing": (lambda x: F.cat([x, empty(0), x]), [[1, 2]], [[1, 2]] * 2, [[2, 2]]),
    "no columns": (lambda x: x @ empty(0, 3), np.ones((2, 0)), np.zeros((2, 3)), np.ones((2, 0))),
    "no inputs": (lambda x: F.linear(empty(2, 0), empty(1, 0), x), [5], [[5], [5]], [2]),
    "layer_norm": (lambda x: F.layer_norm(x, 3), np.ones((0, 3)), np.ones((0, 3)), np.ones((0, 3))),
    "no keys": (
        lambda x: F.scaled_dot_product_attention(x, empty(1, 1, 0, 2), empty(1, 1, 0, 2)),
        [[[[1, 2]]]], [[[[0, 0]]]], [[[[0, 0]]]],
    ),
    "split": (lambda x: x.split(2)[0], [], [], []),
    "sum of a number": (lambda x: x.sum(-1), 2, 2, 1),
    "softmax of a number": (lambda x: x.softmax(0), 2, 1, 0),
    "largest of a number": (lambda x: x.max(0)[0], 2, 2, 1),
    "number gathered": (lambda x: x.gather(0, ids(3)), 2, [2, 2, 2], 3),
    "number scattered": (lambda x: x.scatter(0, ids(), 5.0), 2, 5, 0),
    "number selected": (lambda x: x.index_select(0, ids(1)), 2, 2, 1),
    "number sorted": (lambda x: x.sort()[0] + x.topk(1)[0], 2, 4, 2),
    "numbers stacked": (lambda x: F.stack([x, x]), 2, [2, 2], 2),
    "number dropped": (lambda x: 0 * F.dropout(x) + x, 2, 2, 1),
    "numbers dropped": (lambda x: 0 * F.dropout(x) + x, [2], [2], [1]),
    "larger number": (lambda x: F.maximum(x, x), 2, 2, 1),
    "number transposed": (lambda x: x.transpose(0, -1).movedim(0, 0).squeeze(0), 2, 2, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", LITERAL)
def test_values_and_gradients(name):
    function, value, expected, gradient = LITERAL[name]
    x = Tensor(np.array(value, np.float64), requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = function(x)
        y.sum().backward()
    np.testing.assert_array_equal(y.data, np.array(expected, np.float64))
    np.testing.assert_array_equal(x.grad, np.array(gradient, np.float64))


REFUSED = {  # the function of a tensor of shape (0,), and what the error names
    "amax": (lambda x: x.amax(), "maximum"),
    "argmax": (lambda x: x.argmax(), "argmax"),
    "max of axis": (lambda x: x.max(0), "argmax"),
    "norm": (lambda x: x.norm(INF), "maximum"),
    "topk": (lambda x: x.topk(1), "k is 1"),
    "item": (lambda x: x.item(), "size 1"),
    "slices": (lambda x: x.sum().unbind(), "0-d"),
    "pieces": (lambda x: x.sum().split(1), "0-d"),
    "elements": (lambda x: list(x.sum()), "0-d"),
    "wrong axis": (lambda x: x.softmax(1), "1"),
    "wrong axis of a number": (lambda x: x.sum().softmax(1), "1"),
    "no tensors": (lambda x: F.cat([]), "at least one"),
    "numbers in a row": (lambda x: F.cat([x.sum(), x.sum()]), "zero-dimensional"),
    "an axis that is not there": (lambda x: x.expand(-1, 3), "-1"),
    "lower triangle": (lambda x: x.tril(), "dimension -2"),
    "matrix": (lambda x: x.transpose(0, 1), "dimension 1"),
    "axis twice": (lambda x: x.flip((0, -1)), "twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_elements_is_refused_by_name(name):
    function, text = REFUSED[name]
    with pytest.raises((ValueError, IndexError, TypeError), match=text):
        function(Tensor(np.zeros(0)))


# -- every shape, beside PyTorch ----------------------------------------------------------------

SHAPES = [(), (0,), (1,), (0, 3), (3, 0), (2, 0, 3)]
ELEMENTS = [
    "abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "log", "log1p", "log2", "log10",
    "reciprocal", "round", "rsqrt", "sign", "sin", "sqrt", "square", "gelu", "relu", "sigmoid",
    "silu", "tanh", "neg", "isnan", "isinf", "isfinite", "logical_not", "clone", "t", "tril",
    "triu", "squeeze", "sort", "argsort", "unbind", "flatten", "any", "all",
]  # fmt: skip
AXES = [
    "sum", "mean", "prod", "std", "var", "amax", "amin", "max", "min", "argmax", "argmin",
    "cumsum", "softmax", "log_softmax", "logsumexp", "sort", "argsort", "squeeze", "unsqueeze",
    "unbind", "flatten", "any", "all",
]  # fmt: skip
OPERANDS = [
    "add", "sub", "mul", "div", "maximum", "minimum", "eq", "lt", "pow", "remainder",
    "logical_and", "matmul", "mm", "bmm", "dot", "isclose",
]  # fmt: skip
CALLS = {
    **{name: lambda F, x, t, name=name: getattr(F, name)(x) for name in {*ELEMENTS, *AXES[:11]}},
    **{
        f"{name} {dim}": lambda F, x, t, name=name, dim=dim: getattr(F, name)(x, dim)
        for name in AXES
        for dim in (0, -1, 1)
    },
    **{name: lambda F, x, t, name=name: getattr(F, name)(x, x) for name in OPERANDS},
    "broadcast": lambda F, x, t: F.maximum(x * t(np.array(2.0)), t(np.ones((1, 3)))),
    "keepdim": lambda F, x, t: F.amax(F.sum(x, -1, keepdim=True), -1, keepdim=True),
    "all axes": lambda F, x, t: F.sum(x, []),
    "where": lambda F, x, t: F.where(x > 0, x, x),
    "clamp": lambda F, x, t: F.clamp(F.clamp(x, 0, 1), x, x),
    "cat": lambda F, x, t: F.cat([x, t(np.zeros(0)), x], -1),
    "stack": lambda F, x, t: F.stack([x, x], -1),
    "reshape": lambda F, x, t: x.reshape(-1),
    "view": lambda F, x, t: x.view(-1, 3),
    "permute": lambda F, x, t: x.permute(tuple(range(x.ndim))[::-1]),
    "transpose": lambda F, x, t: x.transpose(0, -1),
    "movedim": lambda F, x, t: x.movedim(0, -1),
    "expand": lambda F, x, t: x.expand(2, *x.shape),
    "repeat": lambda F, x, t: x.repeat(2, 1),
    "gather": lambda F, x, t: x.gather(0, t(ids(*x.shape))),
    "scatter": lambda F, x, t: x.scatter(0, t(ids(*x.shape)), x * 2),
    "scatter_add": lambda F, x, t: x.scatter_add(-1, t(ids(*x.shape)), x * 2),
    "index_select": lambda F, x, t: x.index_select(0, t(ids(1))),
    "index_select none": lambda F, x, t: x.index_select(-1, t(ids(0))),
    "index": lambda F, x, t: x[t(ids(0))],
    "pick": lambda F, x, t: x[0],
    "slice": lambda F, x, t: x[:0],
    "ellipsis": lambda F, x, t: x[..., None],
    "mask": lambda F, x, t: x[x < 9],
    "topk": lambda F, x, t: x.topk(1),
    "topk none": lambda F, x, t: x.topk(0, 0),
    "split": lambda F, x, t: x.split(2),
    "chunk": lambda F, x, t: x.chunk(2, -1),
    "narrow": lambda F, x, t: x.narrow(0, 0, 0),
    "select": lambda F, x, t: x.select(0, 0),
    "flip": lambda F, x, t: x.flip((0,)),
    "masked_fill": lambda F, x, t: x.masked_fill(x > 0, 2.0),
    "masked_select": lambda F, x, t: F.masked_select(x, x < 9),
    "matmul": lambda F, x, t: x @ t(np.ones((3, 2))),
    "matmul none": lambda F, x, t: x @ t(np.ones((0, 2))),
    "linear": lambda F, x, t: F.linear(x, t(np.ones((2, 3))), t(np.ones(2))),
    "linear of none": lambda F, x, t: F.linear(x, t(np.ones((2, 0))), t(np.ones(2))),
    "linear to none": lambda F, x, t: F.linear(x, t(np.ones((0, 3)))),
    "layer_norm": lambda F, x, t: F.layer_norm(x, (3,), t(np.ones(3)), t(np.ones(3))),
    "layer_norm of none": lambda F, x, t: F.layer_norm(x, (0,), t(np.ones(0)), t(np.ones(0))),
    "rms_norm": lambda F, x, t: F.rms_norm(x, (3,), t(np.ones(3))),
    "einsum": lambda F, x, t: F.einsum("ij,kj->ik", x, x),
    "norm 1": lambda F, x, t: x.norm(p=1),
    "norm axis": lambda F, x, t: x.norm(2, -1),
    "norm inf": lambda F, x, t: x.norm(INF, 0),
    "one_hot": lambda F, x, t: F.one_hot(t(ids(*x.shape)), 3),
    "attention": lambda F, x, t: F.scaled_dot_product_attention(
        *[x.reshape(*(1,) * (4 - x.ndim), *x.shape)] * 3
    ),
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


class Torch:
    def __init__(self, torch):
        self.places = torch, torch.nn.functional

    def __getattr__(self, name):
        return next(getattr(place, name) for place in self.places if hasattr(place, name))


def outcome(library, tensor, name, shape):
    """Values and the input's gradient, or None if they are refused."""
    x = tensor(np.arange(1.0, 1 + math.prod(shape)).reshape(shape) / 2, requires_grad=True)
    try:
        found = CALLS[name](library, x, tensor)
        results = list(found) if isinstance(found, list | tuple) else [found]
        for result in results:
            if result.requires_grad:
                (result * result).sum().backward(**({} if library is F else {"retain_graph": True}))
    except (ValueError, IndexError, TypeError, RuntimeError):
        return None
    values = [result.data if library is F else result.detach().numpy() for result in results]
    return [*values, np.zeros(shape) if x.grad is None else np.asarray(x.grad)]


def alike(mine, other):
    return len(mine) == len(other) and all(
        a.shape == b.shape and a.dtype == b.dtype and np.allclose(a, b, equal_nan=True)
        for a, b in zip(mine, other, strict=True)
    )


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_empty_and_0d_tensors_are_pytorchs(torch, shape):
    wrong = []
    for name in CALLS:
        mine = outcome(F, Tensor, name, shape)
        other = outcome(Torch(torch), torch.tensor, name, shape)
        same = mine is other if mine is None or other is None else alike(mine, other)
        wrong += [] if same else [f"{name}: {mine}, PyTorch {other}"]
    assert not wrong, "\n".join(wrong)
