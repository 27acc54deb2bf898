"""Values and gradients are PyTorch's: by fixtures, and live where PyTorch can be imported."""

import importlib.util
import pkgutil
from pathlib import Path

import numpy as np
import pytest

from ringlet.launcher.workers.warm import load
from ringlet.nn.autograd import operations
from ringlet.nn.autograd.tensor import Operation

FOLDER = Path(__file__).with_name("torch")

cases, compare = (load(str(FOLDER / f"{name}.py")) for name in ("cases", "compare"))
with np.load(FOLDER / "fixtures.npz", allow_pickle=False) as file:
    FIXTURES = compare.unpack(file)


def check(name, number, expected):
    actual = compare.evaluate(compare.Ringlet, cases.CASES[name], cases.Draw(name, number))
    assert [x.shape for x in actual] == [x.shape for x in expected]
    for mine, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", cases.CASES)
def test_values_and_gradients_are_those_of_the_fixtures(name):
    rows = [row for row in FIXTURES if row.rpartition(" #")[0] == name]
    assert rows, f"run {FOLDER}/make_fixtures.py"
    for row in rows:
        check(name, int(row.rpartition("#")[2]), FIXTURES[row])


def test_the_fixtures_are_of_these_cases():
    assert {row.rpartition(" #")[0] for row in FIXTURES if "#" in row} == set(cases.CASES)


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_optimizers_take_pytorchs_steps(name, monkeypatch):
    monkeypatch.setattr("ringlet.nn.optim.optimizer.BLOCK", 11)
    options = cases.OPTIMIZERS[name]
    (actual,) = compare.optimized(compare.Ringlet, name, options, cases.Draw(name, 0))
    (expected,) = FIXTURES[f"{name} optimizer"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", cases.SCHEDULES)
def test_schedules_are_pytorchs(name):
    (actual,) = compare.scheduled(compare.Ringlet, name, *cases.SCHEDULES[name])
    np.testing.assert_allclose(actual, FIXTURES[f"{name} schedule"][0], rtol=1e-5)


@pytest.mark.parametrize("name", cases.CASES if importlib.util.find_spec("torch") else ["all"])
def test_values_and_gradients_are_pytorchs_over_random_shapes(name):
    library = compare.Torch(pytest.importorskip("torch"))
    for number in range(100, 110):
        draw = cases.Draw(name, number)
        check(name, number, compare.evaluate(library, cases.CASES[name], draw))


CHECKED_ELSEWHERE = {
    "Dropout": "test_gradients",
    "PackedSelfAttention": "test_gradients",
    "Rotary": "test_gradients and test_layers",
    "SwiGLU": "test_gradients",
    **dict.fromkeys(
        ("Gates", "Balance", "GatherRows", "CombineRows", "ExpertProducts"), "test_experts"
    ),
}


def operation_classes():
    for module in pkgutil.iter_modules(operations.__path__):
        found = importlib.import_module(f"{operations.__name__}.{module.name}")
        for value in vars(found).values():
            if isinstance(value, type) and issubclass(value, Operation):
                base = value.__name__.startswith("_") or value.backward is Operation.backward
                yield from [] if base else [value]


def test_the_cases_cover_every_operation(monkeypatch):
    seen = set()
    call = Operation.__call__

    def watched(self, *inputs):
        seen.add(type(self).__name__)
        return call(self, *inputs)

    monkeypatch.setattr(Operation, "__call__", watched)
    for name, case in cases.CASES.items():
        compare.evaluate(compare.Ringlet, case, cases.Draw(name, 0))
    every = {kind.__name__ for kind in operation_classes()} - {"Operation"}
    assert every - seen == set(CHECKED_ELSEWHERE)
