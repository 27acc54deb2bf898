"""Operands of several dtypes: PyTorch's rule, by a table here and by all pairs beside PyTorch."""

import importlib.util
import itertools
import math

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import Tensor
from ringlet.nn import functional as F

INF = math.inf
NAMES = [
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
    "complex64", "complex128",
]  # fmt: skip
OF_PYTHON = {"True": True, "2": 2, "2.5": 2.5}

RULES = """
int64    + 2.5        float32      | float16  + int64      float16
bool     + 2          int64        | float32  + int64      float32
bool     + 2.5        float32      | float32  + float64    float64
uint8    + 2          uint8        | float32  + 0d float64 float32
float16  + 2.5        float16      | int64    + 0d float64 float64
float32  + True       float32      | int32    + 0d int64   int32
uint8    + int8       int16        | bool     + 0d uint8   uint8
0d int64 + float16    float16      | 0d int32 + 0d float16 float16
0d int32 + 2.5        float32      | float64  + complex64  complex128
int64    + complex64  complex64    | float32  + 0d complex128 complex64
2.5      + int16      float32      | 0d uint8 + int64      int64
"""


def operand(text, tensor=Tensor):
    """A tensor with axes, one without ("0d int64"), or a number of Python's."""
    if text in OF_PYTHON:
        return OF_PYTHON[text]
    kind, _, name = text.rpartition(" ")
    return tensor(np.array(2 if kind else [1, 2], name))


@pytest.mark.parametrize("rule", [r for line in RULES.split("\n") for r in line.split("|") if r])
def test_the_rule(rule):
    (left, right), expected = rule.rsplit(None, 1)[0].split("+"), rule.split()[-1]
    a, b = operand(left.strip()), operand(right.strip())
    for result in (a + b, a * b, b + a, F.where(np.array([True, False]), a, b)):
        assert result.dtype == expected
    if not (np.isscalar(a) or np.isscalar(b)) and a.ndim and b.ndim:
        assert F.cat([a, b]).dtype == F.stack([a, b]).dtype == expected


IDS = Tensor(np.array([1, 4]))
MASK = Tensor(np.array([True, False]))
X = Tensor(np.array([1, 4], np.float32))
RESULTS = {  # value and dtype
    "ids times a float": (lambda: IDS * 0.5, [0.5, 2], "float32"),
    "a float less ids": (lambda: 1.5 - IDS, [0.5, -2.5], "float32"),
    "ids by ids": (lambda: IDS / 2, [0.5, 2], "float32"),
    "whole quotient": (lambda: 9 // IDS, [9, 2], "int64"),
    "remainder": (lambda: 9 % IDS, [0, 1], "int64"),
    "root as a power": (lambda: IDS**0.5, [1, 2], "float32"),
    "power of a float": (lambda: 0.5**IDS, [0.5, 0.0625], "float32"),
    "square": (lambda: IDS**2, [1, 16], "int64"),
    "power of a mask": (lambda: MASK**2, [1, 0], "int64"),
    "mask times a float": (lambda: MASK * -1e9, [-1e9, 0], "float32"),
    "choice": (lambda: F.where(MASK, IDS, 0.5), [1, 0.5], "float32"),
    "clamp to a float": (lambda: IDS.clamp(max=2.5), [1, 2.5], "float32"),
    "clamp": (lambda: IDS.clamp(min=2), [2, 4], "int64"),
    "clamp to tensors": (lambda: X.clamp(IDS - 2, 3), [1, 3], "float32"),
    "root": (lambda: IDS.sqrt(), [1, 2], "float32"),
    "root of bytes": (lambda: IDS.to(np.uint8).sqrt(), [1, 2], "float32"),
    "sigmoid of a mask": (lambda: (MASK & False).sigmoid(), [0.5, 0.5], "float32"),
    "relu": (lambda: (-IDS).relu(), [0, 0], "int64"),
    "round": (lambda: IDS.round(), [1, 4], "int64"),
    "sum of bytes": (lambda: IDS.to(np.uint8).sum(), 5, "int64"),
    "sum of a mask": (lambda: MASK.sum(), 1, "int64"),
    "product of bytes": (lambda: (IDS * 100).to(np.int16).prod(), 40000, "int64"),
    "running sum of a mask": (lambda: MASK.cumsum(0), [1, 1], "int64"),
    "logsumexp": (lambda: (IDS * 0).logsumexp(0).exp(), 2, "float32"),
    "and": (lambda: IDS & 5, [1, 4], "int64"),
    "or": (lambda: 2 | IDS, [3, 6], "int64"),
    "exclusive or": (lambda: IDS ^ IDS.to(np.uint8), [0, 0], "int64"),
    "not": (lambda: ~IDS, [-2, -5], "int64"),
    "not of a mask": (lambda: ~MASK, [False, True], "bool"),
    "and of masks": (lambda: MASK & (IDS > 0), [True, False], "bool"),
    "beyond the range": (lambda: IDS.to(np.uint8) > -1, [True, True], "bool"),
    "filled": (lambda: IDS.masked_fill(MASK, 7.0), [7, 4], "int64"),
    "filled from float64": (lambda: X.masked_fill(MASK, Tensor(np.array(7.0))), [7, 4], "float32"),
    "a scalar of NumPy": (lambda: X * np.float64(2), [2, 8], "float32"),
    "a list of floats": (lambda: Tensor([1.5, 2]), [1.5, 2], "float32"),
    "a list of lists": (lambda: Tensor([[], []]).sum(0), [], "float32"),
    "a float": (lambda: Tensor(2.5), 2.5, "float32"),
    "a complex number": (lambda: Tensor(2j), 2j, "complex64"),
    "NumPy's float": (lambda: Tensor(np.float64(2.5)), 2.5, "float64"),
    "an array": (lambda: Tensor(np.array([2.5])), [2.5], "float64"),
    "a list of ints": (lambda: Tensor([1, 2]), [1, 2], "int64"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_values_and_dtypes(name):
    function, value, dtype = RESULTS[name]
    result = function()
    np.testing.assert_allclose(result.data, value)
    assert result.dtype == dtype


Q = X.reshape(1, 1, 2)
REFUSED = {
    "matmul": lambda: X @ Tensor(np.ones(2)),
    "matmul of masks": lambda: MASK @ MASK,
    "linear": lambda: F.linear(X, Tensor(np.ones((2, 2)))),
    "einsum": lambda: F.einsum("i,i", X, IDS),
    "layer_norm": lambda: F.layer_norm(X, 2, Tensor(np.ones(2))),
    "attention": lambda: F.scaled_dot_product_attention(Q, Q, Q.to(np.float64)),
    "a mask of ids for attention": lambda: F.scaled_dot_product_attention(Q, Q, Q, IDS),
    "a mask of ids for a layer": lambda: nn.MultiheadAttention(2, 1)(Q, Q, Q, IDS.reshape(1, 2)),
    "isclose": lambda: F.isclose(X, IDS),
    "scatter": lambda: X.scatter(0, IDS * 0, IDS),
    "fill with a fraction": lambda: IDS.masked_fill(MASK, 0.5),
    "fill with a tensor": lambda: IDS.masked_fill(MASK, Tensor(0.5)),
    "scatter a fraction": lambda: IDS.scatter(0, IDS * 0, 0.5),
    "pad with a fraction": lambda: F.pad(IDS, (1, 1), value=0.5),
    "a mask of numbers": lambda: F.where(IDS, X, X),
    "a mask as an index": lambda: X.gather(0, MASK),
    "less a mask": lambda: 1 - MASK,
    "a mask less": lambda: X - MASK,
    "minus a mask": lambda: -MASK,
    "a mask's size": lambda: MASK.abs(),
    "a mask to a mask": lambda: MASK**MASK,
    "a mask by a mask": lambda: MASK // MASK,
    "bits of floats": lambda: X & 1,
    "not a float": lambda: ~X,
    "mean": lambda: IDS.mean(),
    "std": lambda: IDS.std(),
    "norm": lambda: IDS.norm(),
    "softmax": lambda: IDS.softmax(0),
    "gelu": lambda: F.gelu(IDS),
    "silu": lambda: F.silu(IDS),
    "dropout": lambda: F.dropout(IDS),
    "cross_entropy": lambda: F.cross_entropy(IDS, np.array(0)),
    "probabilities of bools": lambda: F.cross_entropy(X, np.array(True)),
    "classes of floats": lambda: F.one_hot(X, 5),
    "bias": lambda: F.linear(X, Tensor(np.ones((2, 2), np.float32)), Tensor(np.ones(2))),
    "text": lambda: X + "1",
    "a list": lambda: F.add(X, [1, 2]),
    "unsigned and signed": lambda: Tensor(np.ones(1, np.uint64)) + IDS,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_refused(name):
    with pytest.raises(TypeError):
        REFUSED[name]()


@pytest.mark.parametrize("function", [lambda x: x // 0, lambda x: 1 % (x * 0), lambda x: x // x])
def test_integers_are_not_divided_by_zero(function):
    with pytest.raises(ZeroDivisionError):
        function(Tensor(np.array([0, 1])))
    with pytest.raises(ValueError, match="negative"):
        IDS**-1
    for out_of_range in (
        lambda: IDS.to(np.uint8) + 300,
        lambda: IDS * 10**30,
        lambda: IDS.masked_fill(MASK, INF),
        lambda: X.half().masked_fill(MASK, -1e9),
    ):
        with pytest.raises(OverflowError):
            out_of_range()


def test_what_is_no_operand_is_unequal():
    assert (X == None) is False and (X != "text") is True  # noqa: E711
    assert (X == 4).tolist() == [False, True]


MIXED = {
    "product": lambda a, b: a * b,
    "quotient": lambda a, b: a / b,
    "power": lambda a, b: a**b,
    "choice": lambda a, b: F.where(a > b, a, b),
    "maximum": F.maximum,
    "cat": lambda a, b: F.cat([a.reshape(-1), b.reshape(-1)]),
    "clamp": lambda a, b: a.clamp(b, b + 1),
    "filled": lambda a, b: b.masked_fill(b.data > 0, a.reshape(-1).sum()),
}


@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2,), ()), ((), (2,))])
@pytest.mark.parametrize("name", MIXED)
def test_gradients_have_the_inputs_dtypes(name, shapes):
    a = Tensor(np.full(shapes[0], 2, np.float16), requires_grad=True)
    b = Tensor(np.full(shapes[1], 3, np.float64), requires_grad=True)
    MIXED[name](a, b).sum().backward()
    for x in (a, b):
        assert x.grad is not None and x.grad.dtype == x.dtype and x.grad.shape == x.shape


# -- all pairs, beside PyTorch ------------------------------------------------------------------

OPERATORS = {
    "add": lambda F, a, b: a + b,
    "sub": lambda F, a, b: a - b,
    "mul": lambda F, a, b: a * b,
    "div": lambda F, a, b: a / b,
    "floor_divide": lambda F, a, b: a // b,
    "remainder": lambda F, a, b: a % b,
    "pow": lambda F, a, b: a**b,
    "and": lambda F, a, b: a & b,
    "or": lambda F, a, b: a | b,
    "xor": lambda F, a, b: a ^ b,
    "eq": lambda F, a, b: a == b,
    "lt": lambda F, a, b: a < b,
    "ge": lambda F, a, b: a >= b,
    "logical_and": lambda F, a, b: F.logical_and(a, b),
    "maximum": lambda F, a, b: F.maximum(a, b),
    "minimum": lambda F, a, b: F.minimum(a, b),
    "where": lambda F, a, b: F.where(F.eq(a, a) if hasattr(a, "dtype") else F.eq(b, b), a, b),
    "cat": lambda F, a, b: F.cat([a, b]),
    "stack": lambda F, a, b: F.stack([a, b]),
    "matmul": lambda F, a, b: a @ b,
    "clamp": lambda F, a, b: F.clamp(a, b),
    "isclose": lambda F, a, b: F.isclose(a, b),
}
KINDS = [f"{zero}{name}" for zero in ("", "0d ") for name in NAMES] + list(OF_PYTHON)


def outcome(library, tensor, text, pair):
    """What an operator makes of operands, or its error."""
    try:
        result = OPERATORS[text](library, *(operand(name, tensor) for name in pair))
    except Exception as error:  # whatever the library raises
        return error
    if "complex32" in str(result.dtype):  # NumPy has no such numbers
        result = result.cfloat()
    return np.asarray(result)


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.parametrize("name", OPERATORS)
def test_all_pairs_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    wrong = []
    for pair in itertools.product(KINDS, KINDS):
        if set(pair) <= set(OF_PYTHON):
            continue
        expected = outcome(torch, lambda x: torch.tensor(x), name, pair)
        actual = outcome(nn.functional, Tensor, name, pair)
        if isinstance(expected, Exception):
            if isinstance(actual, Exception) or isinstance(expected, TypeError):
                continue  # numbers are welcome where PyTorch wants tensors
            if "ComplexHalf" in str(expected):
                continue  # float16 with complex numbers is complex64
            wrong.append((*pair, "not refused", actual.dtype, str(expected)[:60]))
        elif isinstance(actual, Exception):
            if name == "pow" and "True" in pair:
                continue  # a mask to the power of True: refused like that to a mask
            wrong.append((*pair, repr(actual)[:80], expected.dtype))
        elif actual.dtype != expected.dtype or not np.allclose(actual, expected, equal_nan=True):
            wrong.append((*pair, actual.dtype, actual.tolist(), expected.dtype, expected.tolist()))
    assert not wrong, "\n".join(map(str, wrong))
