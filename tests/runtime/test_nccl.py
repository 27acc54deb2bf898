"""Collectives between GPUs, on a stand-in for NCCL (tests/fake/cupy/nccl.py): order, streams,
counts, dtypes, and how it ends where something is wrong. It shows nothing about NCCL itself."""

import contextlib
import os

import numpy as np
import pytest
from devices import on_device, trained

from ringlet.comm import CommError, CommTimeout
from ringlet.runtime import device_collectives as dc


@contextlib.contextmanager
def gpus(world, shared=False):
    """Within it each rank has a GPU of its own, and NCCL is asked for."""
    os.environ["RINGLET_NCCL"] = "1"
    try:
        with on_device() as cupy:
            nccl = cupy.cuda.nccl
            nccl.carrier, nccl.log[:] = world.split(range(world.size)), []
            nccl.device.pci_bus_id = f"0000:00:0{0 if shared else world.rank}.0"
            yield cupy
    finally:
        del os.environ["RINGLET_NCCL"]


def same_as_on_the_host(world):
    with gpus(world) as cupy:
        log, main = cupy.cuda.nccl.log, cupy.cuda.nccl.current.ptr
        for dtype in ("float16", "float32", "float64", "int8", "uint8", "int32", "int64"):
            x = (np.arange(12).reshape(6, 2) % 5 + world.rank).astype(dtype)
            device = cupy.asarray(x)
            for op in ("sum", "max", "min", "prod"):
                found = dc.all_reduce(world, cupy.asarray(x), op)
                np.testing.assert_array_equal(found.get(), world.all_reduce(x.copy(), op))
            found = dc.all_gather(world, device, async_op=True)
            np.testing.assert_array_equal(found.wait().get(), world.all_gather(x))
            whole = cupy.asarray(np.concatenate([x] * world.size))
            expected = world.reduce_scatter(np.concatenate([x] * world.size))
            out = cupy.asarray(np.zeros_like(expected))
            assert dc.reduce_scatter(world, whole, out=out) is out
            np.testing.assert_array_equal(out.get(), expected)
            found = dc.all_to_all(world, whole)
            np.testing.assert_array_equal(found.get(), world.all_to_all(whole.get()))
        calls = [stream for what, stream in log if what.startswith("all")]
        assert len(calls) == 7 * 5 and main not in calls and len(set(calls)) == 1
        # Each begins after the caller's stream, which waits for it.
        steps = [(what, stream == main) for what, stream in log[:5]]
        assert steps == [
            ("record", True), ("wait", False), ("allReduce", False), ("record", False),
            ("wait", True),
        ]  # fmt: skip
        before = len(log)
        odd = cupy.asarray(np.arange(4) > 2)  # NCCL has no bool
        assert dc.all_gather(world, odd).get().shape == (world.size, 4) and len(log) == before


def hanging(world):
    with gpus(world) as cupy:
        group = world.split(range(world.size))
        group.timeout = 0.3
        x = cupy.asarray(np.ones(4, np.float32))
        dc.all_reduce(group, x)
        cupy.cuda.nccl.hangs = 1
        work = dc.all_reduce(group, x, async_op=True)
        with pytest.raises(CommTimeout, match=r"rank \d of 2: all_reduce over NCCL has not ended"):
            while not work.done():
                pass
        for call in (work.wait, lambda: dc.all_gather(group, x)):
            with pytest.raises(CommTimeout, match="its communicator is aborted"):
                call()


def failing(world):
    with gpus(world) as cupy:
        group = world.split(range(world.size))
        x = cupy.asarray(np.ones(4, np.float32))
        dc.all_reduce(group, x)
        cupy.cuda.nccl.hangs, cupy.cuda.nccl.error = 1, "unhandled cuda error"
        work = dc.all_reduce(group, x, async_op=True)
        with pytest.raises(CommError, match="all_reduce over NCCL failed: unhandled cuda error"):
            while not work.done():
                pass
        cupy.cuda.nccl.error = ""


def refused(world):
    with gpus(world, shared=True) as cupy:
        x = cupy.asarray(np.ones(4, np.float32))
        with pytest.raises(CommError, match="ranks 0 and 1 have one GPU"):
            dc.all_reduce(world.split(range(world.size)), x)
        cupy.cuda.nccl.available = world.rank != 1
        with pytest.raises(CommError, match="the CuPy of rank 1 has no NCCL"):
            dc.all_reduce(world.split(range(world.size)), x)
        cupy.cuda.nccl.available = True
    with gpus(world) as cupy:
        x = cupy.asarray(np.ones((3, 2), np.float32))
        with pytest.raises(CommError, match="no equal parts for 2 ranks"):
            dc.reduce_scatter(world, x)
        with pytest.raises(CommError, match="out has shape"):
            dc.all_gather(world, x, out=x)
        os.environ["RINGLET_NCCL"] = "yes"
        with pytest.raises(CommError, match="RINGLET_NCCL is 'yes'; it must be 0 or 1"):
            dc.all_reduce(world, x)


def training(world):
    expected = trained(world)
    with gpus(world) as cupy:
        np.testing.assert_allclose(trained(world), expected, rtol=1e-4)
        assert any(what == "allReduce" for what, _ in cupy.cuda.nccl.log)


@pytest.mark.parametrize("task", [same_as_on_the_host, hanging, failing, refused, training])
def test_ranks_with_a_gpu_each(ranks, task):
    ranks(2).run(task)
