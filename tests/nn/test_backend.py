"""Which backend computes, and that arrays of the host and the device meet nowhere unseen.

On a stand-in for CuPy; see tests/fake/cupy/core.py.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn.backend import aligned_empty


def said_by(program, **variables):
    """What another Python says, where the fake CuPy may be in place."""
    run = subprocess.run(
        [sys.executable, "-c", f"from ringlet import nn\n{program}"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return run.stdout + run.stderr


def test_the_backend_is_chosen_once(fake_cupy):
    program = "print(nn.use('cupy', 3).name, nn.use('cupy').name, nn.Linear(2, 2).weight.data)"
    assert said_by(program).startswith("cupy cupy array([[")
    assert "device 1" in said_by(
        "import cupy; nn.use('cupy', 3); print(cupy.counts)", FAKE_GPUS="2"
    )
    error = said_by("nn.use('numpy'); nn.use('cupy')").splitlines()[-1]
    assert "this process already computes with numpy; cupy needs another process" in error
    assert "unknown backend 'torch'; known are numpy, cupy" in said_by("nn.use('torch')")


def test_who_has_no_gpu_is_told_so(fake_cupy):
    error = said_by("nn.use('cupy')", FAKE_GPUS="0").splitlines()[-1]
    assert "BackendError: CuPy finds no GPU: cudaErrorNoDevice" in error


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_who_has_no_cupy_is_told_what_to_install():
    error = said_by("nn.use('cupy')").splitlines()[-1]
    assert "BackendError: CuPy cannot be imported" in error and "ringlet[cupy]" in error


@pytest.mark.parametrize("shape", [(), (0,), (7,), (33, 65)])
def test_aligned_arrays_begin_a_cache_line(shape):
    for dtype in (np.float16, np.float32, np.float64):
        x = aligned_empty(shape, dtype)
        assert x.shape == shape and x.dtype == dtype and x.flags.c_contiguous and x.flags.writeable
        assert x.__array_interface__["data"][0] % 64 == 0


# -- host and device meet nowhere without a word ----------------------------------------------

MIXTURES = {
    "sum": lambda x, host: x + host,
    "sum from the left": lambda x, host: nn.functional.add(host, x),
    "comparison": lambda x, host: x > host,
    "backward": lambda x, host: (x * 2).backward(host),
    "choice": lambda x, host: nn.functional.where(np.array([True, False]), x, host),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_one_error_names_both_arrays(name, fake_cupy):
    x = nn.Tensor(np.ones(2, np.float32), requires_grad=True)
    with pytest.raises(nn.MixedArrays, match=r"cupy.*host \(numpy, float32 \(2,\)\).*nn\.asarray"):
        MIXTURES[name](x, np.ones(2, np.float32))


def test_a_model_from_before_is_refused(request):
    layer = nn.Linear(3, 2)
    request.getfixturevalue("fake_cupy")
    x = nn.Tensor(np.ones((4, 3), np.float32))
    with pytest.raises(nn.MixedArrays) as error:
        layer(x)
    assert "device (cupy" in str(error.value) and "host (numpy" in str(error.value)


def test_an_array_of_the_device_is_refused_on_the_host(request):
    cupy = request.getfixturevalue("fake_cupy")
    array = nn.asarray(np.ones(2))
    assert isinstance(array, cupy.ndarray)
    with nn.backend.substituted(nn.Backend()), pytest.raises(nn.MixedArrays, match="device"):
        nn.Tensor(np.ones(2)) + array


def test_numbers_and_scalars_are_welcome(fake_cupy):
    x = nn.Tensor(np.ones(2, np.float32))
    for number in (2, 2.0, np.float32(2), True):
        assert (x * number).dtype == np.float32
        np.testing.assert_array_equal((x * number).numpy(), np.full(2, float(number)))


# -- what says where is checked on the host ---------------------------------------------------

FIVE = nn.backend.np.arange(5.0)
BEYOND = {
    "embedding": lambda F, t: F.embedding(np.array([1, 7]), t(np.ones((5, 2)))),
    "embedding of the device": lambda F, t: F.embedding(t(np.array([-1])), t(np.ones((5, 2)))),
    "target": lambda F, t: F.cross_entropy(t(np.ones((2, 5))), np.array([1, 7])),
    "index": lambda F, t: t(FIVE)[np.array([1, 7])],
    "index of the device": lambda F, t: t(FIVE)[t(np.array([1, -7]))],
    "two indices": lambda F, t: t(np.ones((2, 5)))[np.array([0, 1]), np.array([4, 5])],
    "mask": lambda F, t: t(FIVE)[np.ones(6, bool)],
    "gather": lambda F, t: F.gather(t(FIVE), 0, np.array([7])),
    "one_hot": lambda F, t: F.one_hot(np.array([7]), 5),
    "index_select": lambda F, t: F.index_select(t(FIVE), 0, [9]),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_out_of_range_is_refused_and_not_wrapped(name, fake_cupy):
    with pytest.raises(IndexError):
        BEYOND[name](nn.functional, nn.Tensor)


def test_lists_and_negative_numbers_index_as_in_numpy(fake_cupy):
    x = nn.Tensor(np.arange(12.0).reshape(3, 4), requires_grad=True)
    picked = x[[-1, 0], [1, -1]]
    np.testing.assert_array_equal(picked.numpy(), [9, 3])
    picked.sum().backward()
    assert nn.to_host(x.grad).sum() == 2 and nn.to_host(x.grad)[2, 1] == 1
