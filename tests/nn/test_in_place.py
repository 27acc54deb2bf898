"""Changes in place: what they do, what they refuse, and that no gradient is wrong after one."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from ringlet import nn
from ringlet.launcher.workers.warm import load
from ringlet.nn import Tensor, no_grad
from ringlet.nn import functional as F

CASES = load(str(Path(__file__).with_name("test_gradients.py"))).CASES
STALE = "modified by an inplace operation: .* at version 1; expected version 0"


def leaf(*values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


def tensor(*values, dtype=np.float32):
    return Tensor(np.array(values, dtype))


# -- between forward and backward ------------------------------------------------------------------


def gradients(function, arrays, changed=None):
    """The gradients of those that have one, where input number `changed` (-1: the result) is
    changed between forward and backward; None if backward refuses."""
    inputs = [Tensor(a.copy(), requires_grad=a.dtype.kind == "f") for a in arrays]
    result = function(*inputs)
    target = None if changed is None else [*inputs, result][changed]
    if target is not None and target.data.flags.writeable:  # unlike an expanded one
        with no_grad():
            before = target.data.copy()
            if target.dtype.kind == "f":
                target.mul_(3).add_(0.25)
            else:
                target.copy_(1 - target.data)
            assert (target.data != before).any()
    try:
        result.backward(np.full(result.shape, 1.5, result.dtype))
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return None
    return [x.grad for x in inputs if x.requires_grad]


ONES, MASK, IDS = np.ones((3, 4)), np.eye(3, 4, dtype=bool), np.array([1, 0, 1])
NUMBERS = np.arange(12.0).reshape(3, 4)
WITHOUT_GRADIENTS = {
    "where": (F.where, [MASK, NUMBERS, -NUMBERS]),
    "masked_fill": (lambda x, mask: x.masked_fill(mask, 2.0), [NUMBERS, MASK]),
    "masked_select": (lambda x, mask: x.masked_select(mask), [NUMBERS, MASK]),
    "index": (lambda x, ids: x[ids], [NUMBERS, IDS]),
    "index of two axes": (lambda x, a, b: x[a, b], [NUMBERS, IDS, IDS]),
    "gather": (lambda x, ids: x.gather(1, ids[:, None]), [NUMBERS, IDS]),
    "scatter": (lambda x, ids, y: x.scatter(1, ids[:, None], y), [NUMBERS, IDS, ONES[:, :1]]),
    "index_select": (lambda x, ids: x.index_select(0, ids), [NUMBERS, IDS]),
    "embedding": (lambda w, ids: F.embedding(ids, w), [NUMBERS, IDS]),
    "cross_entropy": (lambda x, ids: F.cross_entropy(x, ids), [NUMBERS, IDS]),
    "linear_cross_entropy": (F.linear_cross_entropy, [NUMBERS, NUMBERS[:2], IDS]),
    "attention": (
        lambda q, mask: F.scaled_dot_product_attention(q, q, q, mask),
        [NUMBERS[None, None], np.tri(3, dtype=bool)],
    ),
    "rotary": (F.rotary_embedding, [NUMBERS, NUMBERS[:, :2], NUMBERS[:, 2:]]),
    "checkpoint": (
        lambda x, w: nn.checkpoint(nn.ReLU(), x * w),
        [NUMBERS, ONES],
    ),
}


@pytest.mark.parametrize("case", [*CASES, *(f"{name} tensors" for name in WITHOUT_GRADIENTS)])
def test_after_any_change_the_gradient_is_right_or_refused(case):
    function, arrays = CASES.get(case) or WITHOUT_GRADIENTS[case.removesuffix(" tensors")]
    expected = gradients(function, arrays)
    for changed in range(-1, len(arrays)):
        found = gradients(function, arrays, changed)
        if found is not None:
            for one, other in zip(found, expected, strict=True):
                assert_array_equal(one, other, err_msg=f"after a change of input {changed}")


KEEPING = {  # which of (x, y, the result) may not be changed before backward
    "x + y": (lambda x, y: x + y, []),
    "x * y": (lambda x, y: x * y, ["x", "y"]),
    "x / y": (lambda x, y: x / y, ["y", "result"]),
    "exp": (lambda x, y: x.exp(), ["result"]),
    "log": (lambda x, y: x.log(), ["x"]),
    "sum": (lambda x, y: x.sum(), []),
    "a view": (lambda x, y: (x.view(2, 1) * y).view(-1), ["x", "y"]),
    "relu": (lambda x, y: x.relu() - y, []),
}


@pytest.mark.parametrize("case", KEEPING)
@pytest.mark.parametrize("which", ["x", "y", "result"])
def test_only_what_backward_needs_is_refused(case, which):
    function, refused = KEEPING[case]
    x, y = leaf(1, 2), leaf(3, 4)
    result = function(x, y)
    with no_grad():
        {"x": x, "y": y, "result": result}[which].view(-1)[0] = 9  # through a view
    if which in refused:
        with pytest.raises(RuntimeError, match=STALE):
            result.sum().backward()
    else:
        result.sum().backward()


def test_an_optimizers_step_between_forward_and_backward_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    flat = nn.FlatParameters(model)
    optimizer = nn.optim.SGD(flat, 0.1)
    x = tensor(1, 2, 3)
    first, second = model(x).sum(), model(x).sum()
    first.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"\(1, 3\) that Linear kept is at version"):
        second.backward()


@pytest.mark.parametrize(
    "change",
    [
        nn.init.ones_,
        nn.init.normal_,
        lambda w: w.copy_(tensor(5, 6)),
        lambda w: w.detach().zero_(),
        lambda w: w.view(1, 2).fill_(3),
        lambda w: w[0].add_(1),
        lambda w: w.__setitem__(0, 7.0),
    ],
)
def test_every_public_way_to_write_is_seen(change):
    w = leaf(1, 2)
    y = (w * w).sum()
    with no_grad():
        change(w)
    with pytest.raises(RuntimeError, match=STALE):
        y.backward()
    (w * 2).sum().backward()
    assert_array_equal(w.grad, [2, 2])


def test_loading_is_seen_and_what_recomputes_sees_it_too():
    layer = nn.Linear(2, 2)
    x = leaf(1, 2)
    for y in (layer(x), nn.checkpoint(layer, x)):
        layer.load_state_dict({"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2)})
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


# -- what changes do -------------------------------------------------------------------------------

OPERATORS = ["+", "-", "*", "/", "**", "//", "%"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_write_into_the_tensor(operator):
    x = tensor(5, 7)
    view, same, expected = x[1:], x, eval(f"x {operator} 2", {"x": x.clone()})
    names = {"x": x}
    exec(f"x {operator}= 2", names)
    assert names["x"] is same
    assert_array_equal(x.data, expected.data)
    assert view.data == x.data[1] and x.dtype == np.float32


@pytest.mark.parametrize(("operator", "expected"), [("&", [0, 0]), ("|", [1, 1]), ("^", [1, 1])])
def test_logical_operators_write_into_the_tensor(operator, expected):
    x = tensor(True, False, dtype=bool)
    names = {"x": x, "y": tensor(False, True, dtype=bool)}
    exec(f"x {operator}= y", names)
    assert names["x"] is x and x.tolist() == expected


ARGUMENTS = {
    "add": (2.0,), "sub": (2.0,), "mul": (2.0,), "div": (2.0,), "pow": (2,), "remainder": (2.0,),
    "lerp": (tensor(1, 2), 0.25), "addcmul": (tensor(1, 2), tensor(3, 4)),
    "addcdiv": (tensor(1, 2), tensor(3, 4)), "clamp": (0.5, 1.5), "clip": (0.5, 1.5),
    "masked_fill": (np.array([True, False]), 9.0), "scatter": (0, np.array([1]), tensor(5)),
    "scatter_add": (0, np.array([1]), tensor(5)), "cumsum": (0,), "floor_divide": (2.0,),
    "index_fill": (0, np.array([1]), 5.0),
}  # fmt: skip
METHODS = [
    name.removesuffix("_")
    for name in dir(Tensor)
    if name.endswith("_") and not name.startswith("_") and hasattr(Tensor, name.removesuffix("_"))
    and name != "requires_grad_"
]  # fmt: skip
WITHOUT = ["floor_divide", "logical_and", "logical_not", "logical_or", "logical_xor"]


def test_the_methods_are_many():
    assert len(METHODS) > 35 and {"add", "clamp", "masked_fill", "relu"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_methods_in_place_do_what_the_functions_do(name):
    if name in ("tril", "triu"):
        values, arguments = [[0.3, 0.6], [0.5, 0.2]], ()
    elif name.startswith("logical"):
        values, arguments = [True, False], () if name.endswith("not") else (tensor(1, 1),)
    else:
        values, arguments = [0.3, 0.6], ARGUMENTS.get(name, ())
    dtype = bool if name.startswith("logical") else np.float32
    x = Tensor(np.array(values, dtype))
    expected, memory = getattr(x, name)(*arguments), x.data
    assert getattr(x, f"{name}_")(*arguments) is x and x.data is memory
    assert_array_equal(x.data, expected.data)

    if name in WITHOUT:
        return
    one, other = leaf(*values), leaf(*values)
    getattr(one * 1, name)(*arguments).sum().backward()
    changed = other * 1
    getattr(changed, f"{name}_")(*arguments).sum().backward()
    assert_array_equal(one.grad, other.grad)
    with pytest.raises(RuntimeError, match="a leaf that requires grad"):
        getattr(other, f"{name}_")(*arguments)


def test_alpha_and_value_scale():
    p, g = tensor(1, 2), tensor(3, 5)
    assert p.add_(g, alpha=-2).tolist() == [-5, -8]
    assert p.sub_(g.data, alpha=2).tolist() == [-11, -18]
    assert p.addcmul_(g, g, value=2).tolist() == [7, 32]
    assert p.addcdiv_(g, g, value=-1).tolist() == [6, 31]
    assert p.lerp_(g, 1.0).tolist() == [3, 5]


def test_what_overwrites():
    x = Tensor(np.full((2, 500), np.nan))
    assert (x.zero_().data == 0).all() and (x.fill_(2).data == 2).all()
    assert x.copy_(np.arange(500.0)).data[1, 7] == 7
    nn.random.manual_seed(3)
    assert abs(x.normal_(5, 2).data.mean() - 5) < 0.3 and abs(x.data.std() - 2) < 0.3
    assert 2 <= x.uniform_(2, 3).data.min() < 2.1 and 2.9 < x.data.max() <= 3
    assert 0.2 < x.bernoulli_(0.3).data.mean() < 0.4 and set(np.unique(x.data)) == {0, 1}
    assert 0.3 < x.exponential_(2).data.mean() < 0.7 and x.data.min() >= 0
    ids = tensor(1, 2, dtype=np.int64)
    assert ids.copy_(tensor(1.7, 3.2)).tolist() == [1, 3] and ids.dtype == np.int64
    w = leaf(1, 2)
    assert not ids.copy_(w).requires_grad and ids.is_leaf
    y = w * 2
    y.copy_(w * w)
    y.sum().backward()
    assert_array_equal(w.grad, [2, 4])


def test_a_sum_is_gathered_in_a_tensor_that_needed_no_gradient():
    w, total = leaf(1, 2), tensor(0, 0)
    same = total
    for _ in range(3):
        total += w * w
    assert same is total and not total.is_leaf
    total.sum().backward()
    assert_array_equal(w.grad, [6, 12])


def test_what_was_computed_before_a_tensor_got_a_gradient_keeps_none():
    w, total = leaf(1, 2), tensor(3, 4)
    before = w * total
    total += w
    before.sum().backward()
    assert_array_equal(w.grad, [3, 4])
    total.sum().backward()
    assert_array_equal(w.grad, [4, 5])


def test_recomputation_sees_its_arguments_as_they_were():
    w, total = leaf(1, 2), tensor(3, 4)
    product, square = w * total, nn.Sequential(nn.Tanh())
    expected = []
    for checkpoint in (False, True):
        w.grad = None
        product, total = w * tensor(3, 4), tensor(3, 4)
        run = (lambda x: nn.checkpoint(square, x)) if checkpoint else square
        y = run(product) + run(total * 1.0) + run(total)
        product += 1
        total += w
        y.sum().backward()
        expected.append(w.grad.copy())
    assert_array_equal(*expected)


def test_elements_are_set_with_gradients():
    w, x = leaf(1, 2, 3), Tensor(np.zeros((2, 3), np.float32))
    x[0] = w
    x[1, 1:] = w[:2] * 2
    x[:, 0] = 5.0
    assert x.tolist() == [[5, 2, 3], [5, 2, 4]]
    (x * x).sum().backward()
    assert_array_equal(w.grad, [8, 4 + 16, 6])
    y = Tensor(np.ones((2, 3), np.float32))
    y[0] = y[0] + w  # the view of y is gone by then
    y[1, :2] = y[0, 1:] * 3
    y.sum().backward()
    assert_array_equal(w.grad, [9, 24, 10])


def test_attention_scores_are_masked_and_scaled_in_place():
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 4)), requires_grad=True)
    mask = np.triu(np.ones((3, 3), bool), 1)
    found = []
    for in_place in (False, True):
        x.grad = None
        scores = x @ x.transpose(1, 2)
        if in_place:
            scores *= 0.5
            scores.masked_fill_(mask, -np.inf)
        else:
            scores = (scores * 0.5).masked_fill(mask, -np.inf)
        (scores.softmax(-1) @ x).square().sum().backward()
        found.append(x.grad.copy())
    assert_array_equal(*found)


# -- what is refused -------------------------------------------------------------------------------


def halves(x):
    h = x * 2
    return h, h[:1]


REFUSED = {
    "leaf": (lambda w: w.add_(1), "a leaf that requires grad"),
    "operator on a leaf": (lambda w: w.__iadd__(1), "a leaf that requires grad"),
    "element of a leaf": (lambda w: w.__setitem__(0, 1.0), "a leaf that requires grad"),
    "fill a leaf": (lambda w: w.zero_(), "a leaf that requires grad"),
    "view of a leaf": (lambda w: w.view(2, 1).mul_(2), "memory that another tensor shares"),
    "view of a base": (lambda w: (lambda h, v: v.mul_(2))(*halves(w)), "another tensor shares"),
    "shape": (lambda w: tensor(1).add_(tensor(1, 2)), r"shape \(2,\).*written into.*\(1,\)"),
    "float into int": (
        lambda w: tensor(1, dtype=np.int64).div_(2),
        "float32, which can't be cast to the tensor's int64|float64, which can't be cast",
    ),
    "int into bool": (lambda w: tensor(True, dtype=bool).add_(tensor(1, dtype=np.int64)), "bool"),
    "expanded": (lambda w: tensor(1).expand(3).add_(1), "expanded tensors.*clone"),
    "no gradient": (lambda w: (w * 2).floor_divide_(2), "floor_divide_ has no gradient"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_and_nothing_is_changed(case):
    change, message = REFUSED[case]
    w = leaf(1, 2)
    with pytest.raises(RuntimeError, match=message):
        change(w)
    assert w.tolist() == [1, 2]


def test_a_base_can_be_changed_once_its_views_are_gone():
    w = leaf(1, 2)
    h = w * 3
    view = h.view(2, 1)
    with pytest.raises(RuntimeError, match="another tensor shares"):
        h += 1
    del view
    h += 1
    h.sum().backward()
    assert h.tolist() == [4, 7]
    assert_array_equal(w.grad, [3, 3])


@pytest.mark.parametrize("case", CASES)
def test_results_that_share_memory_know_it(case):
    function, arrays = CASES[case]
    inputs = [Tensor(np.array(array), requires_grad=True) * 1 for array in arrays]
    result = function(*inputs)
    if any(np.shares_memory(result.data, x.data) for x in inputs):
        assert result.shares_memory()
