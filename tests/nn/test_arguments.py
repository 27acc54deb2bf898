"""Arguments that functions have in PyTorch: what they do, and that none is ignored."""

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import functional as F

ARRAY = np.arange(-3.0, 3.0).reshape(2, 3)
X = nn.Tensor(ARRAY)
IDS = nn.Tensor(np.array([[-7, 7, 2]]))
CUBE = np.arange(24).reshape(2, 3, 4)
NAN = nn.Tensor(np.array([np.nan, 1.0]))

RESULTS = {
    "roll of all": (lambda: X.roll(1), np.roll(ARRAY, 1)),
    "roll of two axes": (lambda: X.roll((1, -1), (0, 1)), np.roll(ARRAY, (1, -1), (0, 1))),
    "movedim of two": (
        lambda: nn.Tensor(CUBE).movedim((0, -1), (-1, 1)),
        np.moveaxis(CUBE, (0, -1), (-1, 1)),
    ),
    "repeat_interleave of all": (lambda: X.repeat_interleave(2), np.repeat(ARRAY, 2)),
    "repeat_interleave of each": (
        lambda: X.repeat_interleave(nn.Tensor(np.array([2, 0, 1])), 1),
        np.repeat(ARRAY, [2, 0, 1], 1),
    ),
    "narrow from the end": (lambda: X.narrow(1, -2, 2), ARRAY[:, -2:]),
    "narrow from a tensor": (lambda: X.narrow(1, nn.Tensor(np.array(1)), 2), ARRAY[:, 1:]),
    "masked_select broadcasts": (
        lambda: X.masked_select(nn.Tensor(np.array([[True], [False]]))),
        ARRAY[0],
    ),
    "one_hot of all classes": (lambda: F.one_hot(np.array([2, 0])), np.eye(3, dtype=int)[[2, 0]]),
    "pad cuts": (lambda: F.pad(X, (0, -1, -1, 2), value=9), [[0, 1], [9, 9], [9, 9]]),
    "flip": (lambda: X.flip(dims=[0, -1]), ARRAY[::-1, ::-1]),
    "nonzero of a number": (lambda: nn.Tensor(np.array(5)).nonzero(as_tuple=True), [[0]]),
    "sort": (lambda: X.sort(stable=True, descending=True)[1], [[2, 1, 0]] * 2),
    "topk": (lambda: X.topk(1, sorted=False)[1], [[2]] * 2),
    "std": (lambda: X.std(False), ARRAY.std()),
    "add": (lambda: X.add(X, alpha=-2), -ARRAY),
    "sub": (lambda: IDS.sub(1, alpha=3), IDS.data - 3),
    "div floor": (lambda: IDS.div(2, rounding_mode="floor"), [[-4, 3, 1]]),
    "div trunc": (lambda: IDS.div(2, rounding_mode="trunc"), [[-3, 3, 1]]),
    "div trunc of floats": (lambda: X.div(2, rounding_mode="trunc"), np.trunc(ARRAY / 2)),
    "round": (lambda: (X / 7).round(decimals=2), np.round(ARRAY / 7, 2)),
    "round to tens": (lambda: (X * 7).round(decimals=-1), np.round(ARRAY * 7, -1)),
    "isclose": (lambda: NAN.isclose(NAN, equal_nan=True), [True, True]),
    "allclose": (lambda: NAN.allclose(NAN, equal_nan=True), True),
    "clamp of NaN": (lambda: NAN.clamp(min=nn.Tensor(np.array([2.0, np.nan]))), [np.nan] * 2),
    "clamp between tensors": (lambda: X.clamp(X * 0 - 1, X * 0 + 1), ARRAY.clip(-1, 1)),
}

REFUSED = {
    "0.5 is no value": lambda: IDS.add(IDS, alpha=0.5),
    "rounding_mode": lambda: X.div(2, rounding_mode="up"),
    "rtol": lambda: X.isclose(X, rtol=-1),
    "shifts": lambda: X.roll((1, 2), 0),
    "each must move once": lambda: X.movedim((0, 0), (0, 1)),
    "only numbers": lambda: F.maximum(2, 3),
    "what pad leaves of 3": lambda: F.pad(X, (-2, -2)),
    "'nuc'": lambda: X.norm("nuc"),
    "num_samples": lambda: X.exp().multinomial(0),
    "two axes": lambda: F.embedding(IDS.abs(), nn.Tensor(CUBE)),
    "add_bias_kv": lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
    "relu.. takes no argument inplace": lambda: F.relu(X, inplace=True),
    "argument 'inplace'": lambda: nn.ReLU(inplace=True),
    "logsumexp.. got an unexpected keyword argument 'out'": lambda: X.logsumexp(0, out=X),
    "output_size": lambda: X.repeat_interleave(2, output_size=12),
}


@pytest.mark.parametrize("name", RESULTS)
def test_what_an_argument_does(name):
    compute, expected = RESULTS[name]
    np.testing.assert_allclose(np.asarray(compute()), expected, rtol=1e-12)


@pytest.mark.parametrize("words", REFUSED)
def test_an_argument_that_cannot_be_is_named(words):
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=words):
        REFUSED[words]()
