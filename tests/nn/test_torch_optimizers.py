"""PyTorch's own tests of optimizers, run on ringlet: `pytest -m torch`.

Of each class that ringlet has, every sample of options of `optim_db` takes some steps with both
libraries, and every error input is refused.
"""

import warnings

import numpy as np
import pytest

from ringlet import nn

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="torch.testing._internal needs it")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

SHAPES = (3, 4), (4,), (2, 3, 2), ()
CLASSES = {info.optim_cls.__name__: info for info in optim_db}
PRESENT = sorted(name for name in CLASSES if hasattr(nn.optim, name))
TOLERANCE = {"Muon": {"rtol": 0, "atol": 5e-4}}  # PyTorch's computes in bfloat16


def test_these_are_present():
    assert PRESENT == ["Adafactor", "Adagrad", "Adam", "AdamW", "Muon", "RMSprop", "SGD"]


def converted(value, known=None):
    """Tensors of torch as ringlet's, each once."""
    known = {} if known is None else known
    if isinstance(value, dict):
        return {key: converted(each, known) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(converted(each, known) for each in value)
    if isinstance(value, torch.Tensor):
        leaf = known.setdefault(id(value), nn.Parameter(value.detach().numpy().copy()))
        leaf.grad = None if value.grad is None else value.grad.numpy().copy()
        return leaf
    return value


def stepped(library, optimizer, parameters, gradients):
    for step, grads in enumerate(gradients):
        optimizer.zero_grad()
        for number, (parameter, grad) in enumerate(zip(parameters, grads, strict=True)):
            if number or step != 1:  # the first parameter has none in the second step
                parameter.grad = torch.tensor(grad) if library is torch else grad
        optimizer.step()
    values = [p.detach().numpy() if library is torch else p.data for p in parameters]
    return [np.array(value) for value in values]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", PRESENT)
def test_samples_take_the_same_steps(name, dtype):
    info, random = CLASSES[name], np.random.default_rng(0)
    for sample in info.optim_inputs_func("cpu"):
        shapes = [shape for shape in SHAPES if len(shape) == 2 or name != "Muon"]
        arrays = [np.asarray(random.standard_normal(shape), dtype) for shape in shapes]
        gradients = [
            [np.asarray(random.standard_normal(s), dtype) for s in shapes] for _ in range(5)
        ]
        theirs = [torch.nn.Parameter(torch.tensor(array)) for array in arrays]
        ours = [nn.Parameter(array.copy()) for array in arrays]
        optimizers = (
            info.optim_cls(theirs, **sample.kwargs),
            getattr(nn.optim, name)(ours, **converted(sample.kwargs)),
        )
        expected = stepped(torch, optimizers[0], theirs, gradients)
        found = stepped(nn, optimizers[1], ours, gradients)
        tolerance = TOLERANCE.get(name) or (
            {"rtol": 1e-9, "atol": 1e-11} if dtype == "float64" else {"rtol": 2e-5, "atol": 1e-6}
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, **tolerance, err_msg=sample.desc)
        known = {*optimizers[0].param_groups[0]}
        assert known - {"decoupled_weight_decay"} <= {*optimizers[1].param_groups[0]}, sample.desc
        state, own = (optimizer.state_dict()["state"] for optimizer in optimizers)
        assert state.keys() == own.keys()
        for number in state:
            assert state[number].keys() == own[number].keys(), sample.desc
            for key, value in state[number].items():
                np.testing.assert_allclose(
                    np.asarray(own[number][key], float), np.asarray(value, float),
                    **({"rtol": 1e-4, "atol": 1e-6} | TOLERANCE.get(name, {})), err_msg=key,
                )  # fmt: skip


@pytest.mark.parametrize("name", PRESENT)
def test_error_inputs_are_refused(name):
    info = CLASSES[name]
    for wrong in info.optim_error_inputs_func("cpu", torch.float32):
        sample = wrong.optimizer_error_input
        params = [nn.Parameter(np.ones((1, 1), np.float32))]
        if sample.params is not None:
            params = converted(sample.params)
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            optimizer = getattr(nn.optim, name)(params, **converted(sample.kwargs))
            if wrong.error_on is OptimizerErrorEnum.STEP_ERROR:
                optimizer.step()
