"""Recomputation and put-off weight gradients: less is kept, and every bit stays the same."""

import tracemalloc

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import FlatParameters, Linear, Sequential, Tensor, checkpoint
from ringlet.nn import random as nn_random
from ringlet.nn.autograd.engine import WeightGradients, backward
from ringlet.nn.models import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=13, block_size=8, n_layer=3, n_head=2, n_embd=8, dropout=0.2)


def gpt_gradients(recompute=(), put_off=False, passes=1):
    """The flat gradient of some passes, and the parameters' names in the order of the hooks."""
    model = GPT(SMALL)
    flat = FlatParameters(model)
    final = []
    for slot in flat.slots:
        slot.parameter.register_post_accumulate_grad_hook(
            lambda _, name=slot.name: final.append(name)
        )
    for path, module in model.named_modules():
        module.recompute = any(path.endswith(ending) for ending in recompute)
    ids = np.random.default_rng(0).integers(0, 13, (3, 9))
    flat.zero_grad()
    for number in range(passes):
        with nn_random.scope(seed=1, step=number):
            loss = model(ids[:, :-1], ids[:, 1:])
        weights = WeightGradients() if put_off else None
        backward(loss, weights=weights)
        if weights is not None:
            assert len(final) == number * len(flat.slots)  # nothing is final before
            weights.run()
    return flat.grad.copy(), final


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("put_off", [False, True])
@pytest.mark.parametrize(
    "recompute", [(), ("h.0", "h.1", "h.2"), ("attend",), ("h.1", "attend", "act"), ("mlp",)]
)
def test_the_bits_of_the_gradients_are_the_same(recompute, put_off, passes):
    expected, names = gpt_gradients(passes=passes)
    grad, final = gpt_gradients(recompute, put_off, passes)
    np.testing.assert_array_equal(grad, expected)
    assert sorted(final) == sorted(names)  # each parameter is final once in each pass


def test_a_parameter_that_is_also_used_outside_is_final_once():
    inner = Linear(3, 3)
    fired = []
    inner.weight.register_post_accumulate_grad_hook(lambda p: fired.append(p.grad.copy()))
    x = Tensor(np.ones((2, 3), np.float32))
    y = checkpoint(inner, x) + inner(x)
    y.sum().backward()
    assert len(fired) == 1
    np.testing.assert_array_equal(fired[0], np.full((3, 3), 4, np.float32))


def test_inputs_get_their_gradients():
    inner = Linear(3, 3)
    plain, again = (Tensor(np.ones((2, 3), np.float32), requires_grad=True) for _ in range(2))
    inner(plain).sum().backward()
    checkpoint(inner, again).sum().backward()
    np.testing.assert_array_equal(plain.grad, again.grad)


def test_masks_without_a_scope_are_drawn_again_the_same():
    model = Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    x = Tensor(np.ones((4, 64), np.float32), requires_grad=True)
    y = checkpoint(model, x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)
    assert not np.array_equal(model(x).data, y.data)  # the next draw is another


def test_less_memory_is_kept():
    def peak(recompute):
        model = Sequential(*(Sequential(*(nn.GELU("tanh") for _ in range(4))) for _ in range(8)))
        for block in model:
            block.recompute = recompute
        x = Tensor(np.ones((256, 1024), np.float32), requires_grad=True)
        tracemalloc.start()
        model(x).sum().backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / x.data.nbytes

    # Each GELU keeps its slope; its work area, a block, is small beside the input.
    assert peak(recompute=False) > 32
    assert peak(recompute=True) < 16


def test_hooks_around_a_module():
    model = Linear(2, 2)
    seen = []
    model.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments)))
    model.register_forward_hook(lambda module, arguments, result: result * 2)
    x = Tensor(np.ones((1, 2), np.float32))
    np.testing.assert_allclose(model(x).data, 2 * model.forward(x).data)
    assert seen == [1]


def test_modules_can_be_made_without_values():
    with nn.uninitialized():
        model = Linear(1000, 1000)
    model.initialize(3)
    np.testing.assert_array_equal(
        model.weight.data, Linear(1000, 1000).initial_value("weight", (1000, 1000), 3)
    )
