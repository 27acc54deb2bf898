"""The engine: what is recorded, when gradients are final, and what is let go."""

import gc
import weakref

import numpy as np
import pytest

from ringlet.nn import FlatParameters, Linear, Parameter, Sequential, Tensor, no_grad
from ringlet.nn import functional as F


def leaf(*shape):
    return Tensor(np.ones(shape, np.float32), requires_grad=True)


def test_nothing_is_recorded_without_need():
    assert not (Tensor(np.ones(2)) * 2).requires_grad
    x = leaf(2)
    with no_grad():
        y = x * 2
    assert not y.requires_grad
    assert y.operation is None
    assert (x * 2).requires_grad
    assert not (x * 2).detach().requires_grad
    assert not (x > 0).requires_grad


def test_gradients_accumulate_until_they_are_forgotten():
    x = leaf(3)
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 5, 5])
    x.zero_grad()
    assert x.grad is None
    x.zero_grad()
    (x * 4).sum().backward()
    np.testing.assert_array_equal(x.grad, [4, 4, 4])


def test_a_tensor_used_many_times_gets_the_sum():
    x = leaf(2)
    y = x + x
    z = y * y + y + x  # (2x)^2 + 3x
    z.sum().backward()
    np.testing.assert_array_equal(x.grad, [11, 11])


def test_a_gradient_that_goes_two_ways_is_not_written_over():
    x, y = leaf(2), leaf(2)
    (((x + y) + x) + (x + y)).sum().backward()
    np.testing.assert_array_equal(x.grad, [3, 3])
    np.testing.assert_array_equal(y.grad, [2, 2])


def test_backward_needs_something_to_start_from():
    x = leaf(2)
    with pytest.raises(RuntimeError, match=r"shape \(2,\) needs a gradient"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"\(3,\)"):
        (x * 2).backward(np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match="does not require"):
        Tensor(np.ones(1)).backward()
    with pytest.raises(TypeError, match="int64"):
        Tensor(np.arange(3), requires_grad=True)
    x.backward(np.full(2, 3, np.float32))
    np.testing.assert_array_equal(x.grad, [3, 3])


def test_a_tensor_of_one_element_is_a_number_and_a_truth_value():
    one = Tensor(np.array([2.5]))
    assert (float(one), int(one), bool(one > 2)) == (2.5, 2, True)
    with pytest.raises(RuntimeError, match=r"shape \(2,\) is ambiguous"):
        bool(leaf(2) == leaf(2))
    assert leaf(2).requires_grad_(False).requires_grad is False
    with pytest.raises(RuntimeError, match="only a leaf"):
        (leaf(2) * 2).requires_grad_(False)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x @ x, r"\(2, 3\) and \(2, 3\) do not match as a matrix product"),
        (lambda x: x.mm(x[0]), r"\(2, 3\) and \(3,\).*2 axes"),
        (lambda x: x.gather(0, np.zeros((2, 4), int)), r"index shape \(2, 4\).*\(2, 3\)"),
        (lambda x: x.gather(0, np.full((2, 3), 2)), "index 2 is out of range for axis 0"),
        (lambda x: x.split([1, 2], 0), r"pieces of \[1, 2\] do not add up to axis 0"),
        (lambda x: x.narrow(1, 2, 2), "2:4 is out of range for axis 1"),
        (lambda x: x.topk(4), "k is 4; axis -1"),
        (lambda x: x.repeat(2), "1 counts"),
        (lambda x: F.pad(x, (1,)), "1 widths"),
        (lambda x: F.einsum("ijk->i", x), r"'ijk' does not match an operand of shape \(2, 3\)"),
        (lambda x: F.einsum("ij,jk->ik", x), "takes 2 operands, not 1"),
        (lambda x: F.swiglu(x, x[0]), r"\(2, 3\) and up \(3,\)"),
        (lambda x: F.one_hot(np.array([1, 3]), 3), "id 3 is out of range for 3 classes"),
    ],
)
def test_what_does_not_fit_is_refused_with_shapes(function, message):
    with pytest.raises((ValueError, IndexError), match=message):
        function(leaf(2, 3))


def test_a_second_backward_through_the_same_history_is_refused():
    y = (leaf(2) * 2).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="already run"):
        y.backward()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arithmetic_stays_in_the_tensors_dtype(dtype):
    x = Tensor(np.ones((2, 4), dtype), requires_grad=True)
    scalar = Tensor(np.asarray(2, dtype), requires_grad=True)
    y = ((x * 2.5 + 1) / 3 - 0.1) ** 2 * scalar + scalar * 2.0
    y = F.gelu(y, "tanh") + F.gelu(y) + y.tanh() + y.sigmoid() + y.clamp(-1.0, 1.0)
    y = F.layer_norm(y, 4, Tensor(np.ones(4, dtype)), Tensor(np.ones(4, dtype)))
    loss = F.cross_entropy(y, np.array([0, 1])) + y.mean() + y.var() + y.softmax().sum()
    assert loss.dtype == dtype
    loss.backward()
    assert x.grad.dtype == dtype
    assert scalar.grad.dtype == dtype


def test_a_long_chain_does_not_reach_the_recursion_limit():
    x = y = leaf(1)
    for _ in range(20_000):
        y = y + 1
    y.backward()
    assert x.grad == 1
    del y


def test_arrays_are_let_go_without_the_cycle_collector():
    x = leaf(1000)
    gc.disable()
    try:
        y = (x * 2).exp()
        tensor, held = weakref.ref(y), weakref.ref(y.operation)
        loss = y.sum()
        del y
        assert tensor() is None  # only what a backward needs is kept
        assert held() is not None
        loss.backward()
        assert held() is None
        z = (x * 3).sum()
        inner = weakref.ref(z.operation)
        del z
        assert inner() is None
    finally:
        gc.enable()


# -- hooks ----------------------------------------------------------------------------------------


def test_hooks_fire_once_when_the_gradient_is_final():
    seen = []
    a, b = leaf(2), leaf(2)
    a.register_post_accumulate_grad_hook(lambda t: seen.append(("a", t.grad.copy())))
    handle = b.register_post_accumulate_grad_hook(lambda t: seen.append(("b", t.grad.copy())))
    ((a * 2 + b) * a + a).sum().backward()  # a has three consumers
    assert [name for name, _ in seen] == ["b", "a"]
    np.testing.assert_array_equal(seen[1][1], a.grad)
    handle.remove()
    seen.clear()
    (a + b).sum().backward()
    assert [name for name, _ in seen] == ["a"]


def test_hooks_fire_in_the_order_of_backward():
    model = Sequential(*(Linear(3, 3) for _ in range(4)))
    order = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    model(Tensor(np.ones((2, 3), np.float32))).sum().backward()
    assert [name.split(".")[0] for name in order] == ["3", "3", "2", "2", "1", "1", "0", "0"]


# -- flat buffers ---------------------------------------------------------------------------------


def flat_model():
    model = Sequential(Linear(3, 4), Linear(4, 2))
    return model, FlatParameters(model)


def test_parameters_and_gradients_are_views():
    model, flat = flat_model()
    assert [slot.name for slot in flat.slots] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    flat.data[:] = 7
    assert all((p.data == 7).all() for p in model.parameters())
    model(Tensor(np.ones((2, 3), np.float32))).sum().backward()
    assert np.shares_memory(model[0].weight.grad, flat.grad)
    expected = np.concatenate([p.grad.reshape(-1) for p in model.parameters()])
    np.testing.assert_array_equal(flat.grad, expected)
    model.load_state_dict({name: np.ones(p.shape) for name, p in model.named_parameters()})
    assert (flat.data == 1).all()


def test_moving_keeps_the_values_and_uses_the_given_memory():
    model = Sequential(Linear(3, 4), Linear(4, 2))
    before = {name: array.numpy().copy() for name, array in model.state_dict().items()}
    given = []

    def allocate(shape, dtype):
        given.append(np.full(shape, np.nan, dtype))
        return given[-1]

    flat = FlatParameters(model, allocate)
    assert flat.data is given[0]
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert (flat.grad == 0).all()


def test_stale_gradients_are_never_seen():
    model, flat = flat_model()
    x = Tensor(np.ones((2, 3), np.float32))
    model(x).sum().backward()
    flat.zero_grad()
    model[0](x).sum().backward()
    assert (model[1].weight.grad == 0).all()
    assert (flat.grad[-10:] == 0).all()
    first = model[0].weight.grad.copy()
    model[0](x).sum().backward()  # now it adds
    np.testing.assert_array_equal(model[0].weight.grad, 2 * first)


def test_one_dtype():
    model = Sequential(Linear(3, 4), Linear(4, 2))
    model[1].bias = Parameter(np.zeros(2, np.float64))
    with pytest.raises(TypeError, match="float32, float64"):
        FlatParameters(model)


def test_every_method_of_tensors_is_in_place():
    from ringlet.nn.autograd import tensor

    left = [
        name
        for name, value in vars(Tensor).items()
        if value in (tensor.placeholder, tensor.any_placeholder)
    ]
    assert left == []
