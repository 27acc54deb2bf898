"""Dimensions and sizes that do not exist are refused by name; none wraps around."""

import numpy as np
import pytest

from ringlet.nn import Tensor
from ringlet.nn import functional as F

X = Tensor(np.arange(6.0).reshape(2, 3))
INDEX = Tensor(np.array([[0, 1]]))
ONES = Tensor(np.ones((1, 2)))
ROW = np.array([1])

WITH_DIM = {
    "unsqueeze": lambda dim: X.sum(0).unsqueeze(dim),  # one more axis than it has
    "squeeze": X.squeeze,
    "flatten": X.flatten,
    "flatten to": lambda dim: X.flatten(0, dim),
    "movedim from": lambda dim: X.movedim(dim, 0),
    "movedim to": lambda dim: X.movedim(0, dim),
    "transpose": lambda dim: X.transpose(0, dim),
    "flip": lambda dim: X.flip([0, dim]),
    "roll": lambda dim: X.roll(1, dim),
    "select": lambda dim: X.select(dim, 0),
    "narrow": lambda dim: X.narrow(dim, 0, 1),
    "index_select": lambda dim: X.index_select(dim, ROW),
    "repeat_interleave": lambda dim: X.repeat_interleave(2, dim),
    "gather": lambda dim: X.gather(dim, INDEX),
    "scatter": lambda dim: X.scatter(dim, INDEX, 9.0),
    "scatter_add": lambda dim: X.scatter_add(dim, INDEX, ONES),
    "split": lambda dim: X.split(1, dim),
    "chunk": lambda dim: X.chunk(1, dim),
    "unbind": X.unbind,
    "cat": lambda dim: F.cat([X, X], dim),
    "stack": lambda dim: F.stack([X.sum(0), X.sum(0)], dim),
    "sum": X.sum,
    "mean": X.mean,
    "amax": X.amax,
    "max": X.max,
    "argmax": X.argmax,
    "sort": X.sort,
    "topk": lambda dim: X.topk(1, dim),
    "cumsum": X.cumsum,
    "softmax": X.softmax,
    "logsumexp": X.logsumexp,
    "any": X.any,
}


@pytest.mark.parametrize("dim", [2, 5, -3, -6])
@pytest.mark.parametrize("name", WITH_DIM)
def test_a_dimension_that_is_not_there_is_refused(name, dim):
    with pytest.raises(IndexError):
        WITH_DIM[name](dim)


@pytest.mark.parametrize("name", ["unsqueeze", "flip", "gather", "select", "movedim to", "flatten"])
def test_the_error_names_the_dimension(name):
    with pytest.raises(IndexError, match="dimension 7 is out of range for a tensor of 2 axes"):
        WITH_DIM[name](7)


WRONG_SIZES = {
    "narrow": lambda: X.narrow(0, 0, -1),
    "split": lambda: X.split([3, -1]),
    "split into zeros": lambda: X.split(0),
    "split into less": lambda: X.split(-1),
    "chunk": lambda: X.chunk(-1),
    "chunk into none": lambda: X.chunk(0),
    "reshape": lambda: X.reshape(-2, 3),
    "view": lambda: X.view(-3, -1),
    "reshape with two unknown": lambda: X.reshape(-1, -1),
    "expand": lambda: X.expand(-2, 3),
    "repeat": lambda: X.repeat(-1, 1),
    "repeat_interleave": lambda: X.repeat_interleave(-1, 0),
    "pad": lambda: F.pad(X, (-9, 0)),
    "one_hot": lambda: F.one_hot(ROW, -2),
    "topk": lambda: X.topk(-1),
    "flip twice": lambda: X.flip((0, -2)),
    "squeeze twice": lambda: X.squeeze((0, 0)),
    "sum twice": lambda: X.sum((0, -2)),
    "permute twice": lambda: X.permute(0, 0),
    "expand a new axis": lambda: X.expand(-1, 2, 3),
    "flatten backwards": lambda: X.flatten(1, 0),
}


@pytest.mark.parametrize("name", WRONG_SIZES)
def test_a_size_that_cannot_be_is_refused(name):
    with pytest.raises((ValueError, IndexError)):
        WRONG_SIZES[name]()


def test_no_axes_are_all_axes():
    assert X.sum([]).item() == X.sum(()).item() == 15
    assert X.mean(()).item() == 2.5
    assert X.std([]).shape == X.amax([]).shape == ()
    assert X.any([]).shape == X.all(()).shape == X.shape  # as in PyTorch
    with pytest.raises(TypeError, match="one axis"):
        X.prod((0, 1))
