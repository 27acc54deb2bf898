"""Where formulas break: gradients behind masks, constant rows, and the ends of the range."""

import math

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import Tensor
from ringlet.nn import functional as F

INF, NAN = math.inf, math.nan

MASKED = {  # the function, its input, and the gradient of its sum
    "relu": (lambda x: x.relu().sqrt(), [-1, 4], [0, 0.25]),
    "relu of NaN": (lambda x: x.relu(), [NAN, 4], [1, 1]),
    "clamp below": (lambda x: x.clamp(min=0).sqrt(), [-1, 4], [0, 0.25]),
    "clamp above": (lambda x: (1 - x.clamp(max=1)).sqrt(), [2, 0.75], [0, -1]),
    "maximum": (lambda x: F.maximum(x, Tensor(np.zeros(2))).sqrt(), [-1, 4], [0, 0.25]),
    "minimum": (lambda x: (1 - F.minimum(x, Tensor(np.ones(2)))).sqrt(), [2, 0.75], [0, -1]),
    "maximum of equals": (lambda x: F.maximum(x, Tensor(np.zeros(2))), [0, 4], [0.5, 1]),
    "where": (lambda x: (F.where(x > 0, x, x.detach()) + 1).log(), [-1, 4], [0, 0.2]),
    "masked_fill": (lambda x: x.masked_fill(x.data < 0, 0.0).sqrt(), [-1, 4], [0, 0.25]),
    "triu": (lambda x: x.reshape(1, 2).triu(1).sqrt(), [-1, 4], [0, 0.25]),
    "amax": (lambda x: (1 - x.amax()).sqrt(), [0, 1], [0, -INF]),
    "amin": (lambda x: x.amin().sqrt(), [0, 1], [INF, 0]),
    "amax of NaN": (lambda x: x.amax(), [NAN, 1], [1, 0]),
    "pow by zero": (lambda x: x ** Tensor(np.array([0.0, 2.0])), [0, 4], [0, 8]),
    "zero to the power": (lambda x: Tensor(np.zeros(2)) ** x, [0, 2], [0, 0]),
    "logsumexp of -inf": (lambda x: x.logsumexp(0), [-INF, -INF], [0, 0]),
    "std of equals": (lambda x: x.std(), [2, 2], [0, 0]),
    "std of equals, biased": (lambda x: x.reshape(1, 2).std(-1, False), [2, 2], [0, 0]),
    "norm of zeros": (lambda x: x.norm(), [0, 0], [0, 0]),
}


@pytest.mark.parametrize("name", MASKED)
def test_what_is_masked_has_no_gradient(name):
    function, values, expected = MASKED[name]
    x = Tensor(np.array(values, np.float64), requires_grad=True)
    with np.errstate(all="ignore"):
        function(x).sum().backward()
    np.testing.assert_allclose(x.grad, expected)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("as_numbers", [False, True])
def test_a_row_of_padding_alone_gets_zeros_and_gives_no_gradient(need_weights, as_numbers):
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32))
    x.requires_grad_()
    padding = np.array([[False] * 3, [True] * 3])
    mask = np.where(padding, np.float32(-np.inf), np.float32(0)) if as_numbers else padding
    y, weights = attention(x, x, x, key_padding_mask=mask, need_weights=need_weights)
    assert (y.data[1] == 0).all()
    assert weights is None or (weights.data[1] == 0).all()
    y.sum().backward()
    assert np.isfinite(attention.in_proj_weight.grad).all() and np.isfinite(x.grad).all()
    assert attention.in_proj_weight.grad.any()


def _near(low, high):
    ends = np.logspace(-30, np.log10(high), 300)
    return np.concatenate([np.linspace(low, high, 2000), ends, -ends[ends < -low]])


ERF = np.vectorize(math.erf)
PRECISE = {  # the function, its range, and value and slope in float64
    "sigmoid": (F.sigmoid, (-87, 87), lambda x: 1 / (1 + np.exp(-x))),
    "sigmoid slope": (F.sigmoid, (-85, 85), lambda x: 1 / (2 * np.cosh(x / 2)) ** 2),
    "tanh": (F.tanh, (-40, 40), np.tanh),
    "tanh slope": (F.tanh, (-40, 40), lambda x: 1 / np.cosh(x) ** 2),
    "erf": (F.erf, (-9, 9), ERF),
    "erf slope": (F.erf, (-9, 9), lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x)),
    "expm1 slope": (F.expm1, (-80, 80), np.exp),
    "silu": (F.silu, (-85, 1e8), lambda x: x / (1 + np.exp(-x))),
    "silu slope": (F.silu, (20, 1e8), lambda x: np.ones_like(x)),
}


@pytest.mark.parametrize("name", PRECISE)
def test_float32_is_exact_to_a_few_units_over_the_whole_range(name):
    function, bounds, exact = PRECISE[name]
    values = np.linspace(*bounds, 2000) if bounds[0] > 0 else _near(*bounds)
    x = Tensor(values.astype(np.float32), requires_grad=True)
    y = function(x)
    y.sum().backward()
    expected = exact(x.data.astype(np.float64))
    unit = np.spacing(np.abs(expected).astype(np.float32))
    error = np.abs((x.grad if name.endswith("slope") else y.data) - expected) / unit
    assert error.max() <= 6, (error.max(), x.data[error.argmax()])


def test_the_ends_of_the_range_give_no_nan():
    x = Tensor(np.array([-INF, -1e30, -100, 100, 1e30], np.float32), requires_grad=True)
    for function in (F.sigmoid, F.tanh, F.erf):
        x.grad = None
        y = function(x)
        y.sum().backward()
        assert np.isfinite(y.data).all() and np.isfinite(x.grad).all()


@pytest.mark.parametrize("change", ["+=", "-=", "*=", "/="])
def test_operators_in_place_write_into_leaves_under_no_grad(change):
    p = nn.Parameter(np.array([4, 8], np.float32))
    same, expected = p, {"+=": [6, 10], "-=": [2, 6], "*=": [8, 16], "/=": [2, 4]}[change]
    with nn.no_grad():
        exec(f"p {change} 2.0", {"p": p})
    assert same.data.tolist() == expected and same.is_leaf and same.dtype == np.float32


def test_tensors_are_taken_where_arrays_are():
    t = Tensor(np.ones((2, 2), np.float32))
    assert np.asarray(t).dtype == np.float32 and np.asarray(t, np.float64).dtype == np.float64
    assert np.array(t, copy=True) is not t.data
    assert Tensor(t).data is t.data and nn.Parameter(t).dtype == np.float32
    layer = nn.Linear(2, 2)
    layer.load_state_dict({"weight": t, "bias": t[0]})
    assert (layer.weight.data == 1).all()
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    (x * 2).backward(Tensor(np.ones(2, np.float32)))
    assert x.grad.tolist() == [2, 2]
    value = Tensor(np.float32(3), requires_grad=True)
    x.masked_fill(np.array([True, False]), value).sum().backward()
    assert value.grad == 1
    for wrong in (None, "text", [object()]):
        with pytest.raises(TypeError, match="a tensor holds numbers"):
            Tensor(wrong)
