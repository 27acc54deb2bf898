"""What helps to find a fault: anomaly mode, hooks, summaries."""

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import Module, Tensor
from ringlet.nn import functional as F
from ringlet.nn.autograd.tensor import Operation
from ringlet.nn.models import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8)


def leaf(*values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


class Inner(Module):
    def __init__(self, function):
        self.function = function

    def forward(self, x):
        return self.function(x)


class Outer(Module):
    def __init__(self, function):
        self.linear = nn.Linear(2, 2)
        self.part = Inner(function)

    def forward(self, x):
        return self.part(self.linear(x) * 0 + x).sum()


class Widens(Operation):
    def forward(self, *arrays):
        return arrays[0].astype(np.float64)

    def backward(self, grad):
        return (grad,)


class Breaks(Operation):
    def forward(self, *arrays):
        return arrays[0]

    def backward(self, grad):
        return (grad * np.float32("nan"),)


class WidensBack(Breaks):
    def backward(self, grad):
        return (grad.astype(np.float64),)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: x.log(),
            r"Log made the first NaN, in part \(Inner\): 1 of shape \(2,\).*\(1,\)",
        ),
        (lambda x: Widens()(x), r"Widens changed float32 to float64, in part \(Inner\)"),
        (lambda x: Breaks()(x), r"Breaks made the first NaN of backward.*in part \(Inner\)"),
        (lambda x: WidensBack()(x), r"WidensBack changed float32 to float64, in part"),
    ],
)
def test_anomalies_name_the_operation_and_the_module(function, message):
    with nn.detect_anomaly(), pytest.raises(nn.Anomaly, match=message):
        Outer(function)(leaf(1, -1)).backward()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_came_in_and_infinities():
    with (
        nn.detect_anomaly(),
        pytest.raises(nn.Anomaly, match=r"Mul was given NaN \(input 0\)"),
    ):
        leaf(1, np.nan) * 2
    with nn.detect_anomaly():
        leaf(1, 0).log().masked_fill(np.array([True, False]), 0.0).double()
    with nn.detect_anomaly(infinite=True), pytest.raises(nn.Anomaly, match=r"Log made.*infinity"):
        leaf(1, 0).log()


def test_nothing_is_checked_outside_and_good_models_pass():
    call = Operation.__call__
    model = GPT(SMALL)
    ids = np.arange(8)[None]
    model(ids, ids).backward()
    expected = {name: p.grad.copy() for name, p in model.named_parameters()}
    model.zero_grad()
    with nn.detect_anomaly():
        model(ids, ids).backward()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad, expected[name], atol=1e-6)
    assert Operation.__call__ is call


# -- hooks ----------------------------------------------------------------------------------------


def test_forward_hooks_may_change_arguments_and_results_and_go_away():
    layer = Inner(lambda x: x * 3)
    before = layer.register_forward_pre_hook(lambda module, args: args[0] + 1)
    after = layer.register_forward_hook(lambda module, args, result: result * 10)
    assert layer(leaf(1)).tolist() == [60]
    before.remove()
    assert layer(leaf(1)).tolist() == [30]
    after.remove()
    assert layer(leaf(1)).tolist() == [3]


def test_backward_hooks_see_the_gradients_of_inputs_and_outputs():
    seen = []
    layer = Inner(lambda x, y=None: x * 3)
    handle = layer.register_full_backward_hook(lambda *given: seen.append(given))
    x = leaf(1, 2)
    (layer(x) * 5).sum().backward()
    ((module, inputs, outputs),) = seen
    assert module is layer
    np.testing.assert_array_equal(inputs[0], [15, 15])
    np.testing.assert_array_equal(outputs[0], [5, 5])
    np.testing.assert_array_equal(x.grad, [15, 15])
    linear = nn.Linear(2, 1)
    linear.register_full_backward_hook(lambda *given: seen.append(given))
    linear(Tensor(np.ones((1, 2), np.float32))).sum().backward()  # only the weights want one
    assert seen[1][1] == (None,)
    assert seen[1][2][0].shape == (1, 1)
    handle.remove()
    layer(leaf(1)).sum().backward()
    assert len(seen) == 2


# -- summaries ------------------------------------------------------------------------------------


def test_a_summary_has_shapes_parameters_and_flops():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2, bias=False))
    found = model.summary(Tensor(np.ones((3, 4), np.float32)))
    assert found.parameters == model.num_parameters() == 4 * 8 + 8 + 16
    rows = {row.path: row for row in found.rows}
    assert rows["0"].shape == (3, 8)
    assert rows["0"].flops == 2 * 3 * 4 * 8 + 3 * 8
    assert rows["2"].flops == 2 * 3 * 8 * 2
    assert found.flops == sum(rows[path].flops for path in "012")
    lines = str(found).splitlines()
    assert lines[0].split() == ["module", "result", "parameters", "FLOPs"]
    assert lines[2].split()[:4] == ["0", "(Linear)", "(3,", "8)"]


def test_the_summary_of_a_gpt():
    model = GPT(SMALL)
    found = model.summary(np.zeros((2, 8), int))
    rows = {row.path: row for row in found.rows}
    assert found.parameters == model.num_parameters()
    assert rows["transformer.h.1.attn.c_attn"].flops == 2 * 16 * 8 * 24 + 16 * 24
    assert rows["transformer.h.1.attn.attend"].flops == 2 * 2 * 64 * (4 * 4 + 4)
    assert rows["lm_head"].shape == (2, 8, 11)
    assert found.flops > 6 * 16 * model.num_parameters() / 3 * 0.8


def test_scores_are_counted_where_they_are_computed():
    q = Tensor(np.ones((1, 1, 256, 4), np.float32))
    model = Inner(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True))
    assert model.summary(q).flops == 64 * (64 + 128 + 192 + 256) * (4 * 4 + 4)
