"""What computes on a device, on a stand-in for CuPy that refuses what CuPy does not do."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).with_name("torch")


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases, compare = load("cases"), load("compare")


@pytest.mark.parametrize("name", cases.CASES)
def test_values_and_gradients_are_numpys(name, request):
    expected = compare.evaluate(compare.Ringlet, cases.CASES[name], cases.Draw(name, 0))
    request.getfixturevalue("fake_cupy")
    actual = compare.evaluate(compare.Ringlet, cases.CASES[name], cases.Draw(name, 0))
    for mine, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_optimizers_take_numpys_steps(name, request):
    options = cases.OPTIMIZERS[name]
    (expected,) = compare.optimized(compare.Ringlet, name, options, cases.Draw(name, 0))
    request.getfixturevalue("fake_cupy")
    (actual,) = compare.optimized(compare.Ringlet, name, options, cases.Draw(name, 0))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
