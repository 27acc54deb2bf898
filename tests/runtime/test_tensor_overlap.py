"""Tensor parallelism: the input's gradient travels while the weight's is computed."""

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import Parameter
from ringlet.nn.autograd.deferred import Product
from ringlet.runtime import device_collectives
from ringlet.runtime.tensor.regions import SequenceParallelRegion, TensorParallelRegion
from ringlet.runtime.tensor.tensor_parallel import ColumnParallelLinear


class Diary:
    """Collectives that write down what leaves, and when somebody waits for it."""

    def __init__(self, events):
        self._events = events

    def __getattr__(self, name):
        def noted(group, x, *, async_op, label):
            self._events.append(f"{name} leaves")
            result = getattr(device_collectives, name)(group, x, async_op=async_op, label=label)
            return Noted(result, name, self._events) if async_op else result

        return noted


class Noted:
    """What is on its way, with a note of who waits."""

    def __init__(self, pending, name, events):
        self._pending, self._name, self._events = pending, name, events

    def wait(self):
        self._events.append(f"{self._name} awaited")
        return self._pending.wait()


def backward_events(world, sequence):
    """What happens in the backward pass of a column layer behind another one, in order."""
    events = []
    kind = SequenceParallelRegion if sequence else TensorParallelRegion
    region = kind(world, Diary(events))
    x = Parameter(np.ones((1, 4 if sequence else 8, 6), np.float32))
    weight = Parameter(np.ones((5, 6), np.float32))
    inner = nn.functional.gelu(x)  # so that the layer's input is no leaf
    loss = ColumnParallelLinear(region, weight, Parameter(np.zeros(5, np.float32)))(inner).sum()
    into = Product.into

    def noted(self, out, add):
        events.append("weight's product")
        into(self, out, add)

    Product.into = noted
    try:
        events.clear()
        loss.backward()
    finally:
        Product.into = into
    assert np.isfinite(x.grad).all()
    return events


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        (False, ["all_reduce leaves", "weight's product", "all_reduce awaited"]),
        (
            True,
            [
                "all_gather leaves",
                "reduce_scatter leaves",
                "all_gather awaited",
                "weight's product",
                "reduce_scatter awaited",
            ],
        ),
    ],
)
def test_the_inputs_gradient_leaves_before_the_weights_is_computed(ranks, sequence, expected):
    for events in ranks(2).run(backward_events, sequence=sequence):
        assert events == expected
