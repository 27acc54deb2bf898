"""The real CuPy has all that is reached through `xp`, under the same parameters' names.

The list of what it has is tests/fake/names.txt; where CuPy can be imported (that takes no GPU) the
list is compared with it. Tests marked `gpu` compute on one, and say so when there is none.
"""

import ast
import functools
import importlib
from pathlib import Path

import numpy as np
import pytest

from ringlet import nn
from ringlet.launcher.workers.warm import load
from ringlet.nn.backend import CuPy

ROOT = Path(__file__).resolve().parents[2]

listed = load(str(ROOT / "tests/fake/make_names.py"))
cases, compare = (load(str(ROOT / f"tests/nn/torch/{name}.py")) for name in ("cases", "compare"))
VERSION, NAMES = listed.read()


def dotted(node):
    """xp.add.at -> add.at; None for what does not begin with xp."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed(parts)) if isinstance(node, ast.Name) and node.id == "xp" else None


@functools.cache
def reached():
    """(file, line, name, keywords) of all that is taken from `xp`."""
    found = []
    for path in sorted([*(ROOT / "nn").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]):
        tree = ast.parse(path.read_text())
        calls = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node not in inner and dotted(node):
                words = [word.arg for word in calls[node].keywords] if node in calls else []
                found.append((path.relative_to(ROOT), node.lineno, dotted(node), words))
    return found


def missing(names):
    """What is reached and not there."""
    return [
        f"{path}:{line}: xp.{name}({', '.join(words)})"
        for path, line, name, words in reached()
        if name not in names
        or not (set(words) <= set(names[name]) or any(n.startswith("**") for n in names[name]))
    ]


def test_what_is_reached_is_listed():
    assert missing(NAMES) == []
    assert len({name for _, _, name, _ in reached()}) > 60


def test_the_list_is_of_use():
    assert "errstate" not in NAMES and "frompyfunc" not in NAMES
    assert "where" not in NAMES["add"] and "out" in NAMES["add"]
    assert missing({name: words for name, words in NAMES.items() if name != "exp"})
    assert missing({**NAMES, "multiply": ["*args"]})  # which is called with out=


def test_what_is_reached_is_in_the_cupy_that_is_here():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: names.txt stands for it")
    found = listed.surveyed(cupy, np)
    assert missing(found) == []
    if cupy.__version__ == VERSION:
        assert found == NAMES
    special = importlib.import_module("cupyx.scipy.special")
    assert callable(special.erf) and callable(importlib.import_module("cupyx").empty_pinned)
    assert set(listed.parameters(cupy.asnumpy)) >= {"a", "out"}
    assert callable(cupy.cuda.runtime.getDeviceCount) and callable(cupy.cuda.Device.use)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, Exception)
    assert callable(cupy.cuda.get_current_stream) and callable(cupy.cuda.Stream.synchronize)


@pytest.fixture
def gpu():
    """The backend is CuPy on a GPU."""
    try:
        present = CuPy()
    except nn.BackendError as error:
        pytest.skip(f"needs a GPU: {error}")
    with nn.backend.substituted(present):
        yield present


@pytest.mark.gpu
def test_values_and_gradients_on_a_gpu(gpu):
    wrong = {}
    for name, case in cases.CASES.items():
        with nn.backend.substituted(nn.Backend()):
            expected = compare.evaluate(compare.Ringlet, case, cases.Draw(name, 0))
        try:
            actual = compare.evaluate(compare.Ringlet, case, cases.Draw(name, 0))
            for mine, other in zip(actual, expected, strict=True):
                np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
        except Exception as error:
            wrong[name] = repr(error)
    assert wrong == {}


@pytest.mark.gpu
def test_a_gpt_trains_on_a_gpu_as_on_numpy(gpu):
    def trained():
        model = nn.models.GPT(nn.models.GPTConfig(64, 32, 2, 4, 32))
        flat = nn.FlatParameters(model)
        optimizer, losses = nn.optim.AdamW(flat, 1e-2), []
        for step in range(10):
            ids = np.random.default_rng(step).integers(0, 64, (4, 33))
            flat.zero_grad()
            loss = model(ids[:, :-1], ids[:, 1:])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, nn.to_host(flat.data)

    with nn.backend.substituted(nn.Backend()):
        expected, _ = trained()
    losses, parameters = trained()
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    again, same = trained()
    assert losses == again
    np.testing.assert_array_equal(parameters, same)
