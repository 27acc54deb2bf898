"""Tensor parallelism on a slow link: how much of a sum is hidden behind the weight's gradient.

    python benchmarks/overlap_tensor.py

Two workers on two hosts (network namespaces; needs root), one BLAS thread each: the backward pass
of one column layer, width -> 4 * width over both, in turns

- `computing`: without the sum;
- `talking`: the sum of the input's gradient alone;
- `in turn`: the sum is waited for before the weight's gradient is computed;
- `at once`: as `runtime.tensor.tensor_parallel` does it.

*Can be hidden* is the shorter of the sum and the weight's product; *hidden* is `computing` +
`talking` - `at once`.
"""

import argparse
import os
import time

import numpy as np
from network_pair import NetworkPair, NetworkPairPool
from peer_programs import ONE_THREAD

from ringlet.nn import Parameter, Tensor
from ringlet.runtime.device_collectives import Ready
from ringlet.runtime.tensor.regions import TensorParallelRegion
from ringlet.runtime.tensor.tensor_parallel import ColumnParallelLinear


class Silent(TensorParallelRegion):
    """The ranks say nothing: for what computing alone takes."""

    def leave(self, part, async_op=False):
        return Ready(part) if async_op else super().leave(part)


class InTurn(TensorParallelRegion):
    """What leaves is waited for at once."""

    def leave(self, part, async_op=False):
        left = super().leave(part, async_op)
        return Ready(left.wait()) if async_op else left


def backward_seconds(world, tokens, width, rounds):
    """Medians of the slower rank's seconds: of the four, and of the weight's product."""
    random = np.random.default_rng(world.rank)
    x = Parameter(random.standard_normal((1, tokens, width), np.float32))
    weight = Parameter(random.standard_normal((2 * width, width), np.float32))
    grad = random.standard_normal((1, tokens, 2 * width), np.float32)
    kinds = (Silent, InTurn, TensorParallelRegion)
    ways = [ColumnParallelLinear(kind(world), weight, None) for kind in kinds]
    summed, product = np.zeros((tokens, width), np.float32), np.empty_like(weight.data)
    rows = []
    for _ in range(rounds + 1):
        row = []
        for layer in ways:
            result = layer(scaled(x))
            row.append(seconds(world, lambda r=result: r.backward(grad)))
        work = seconds(world, lambda: world.all_reduce(summed, async_op=True).wait())
        flat = grad.reshape(tokens, -1)
        multiply = seconds(world, lambda f=flat: np.matmul(f.T, x.data[0], out=product))
        rows.append([*row, work, multiply])
    found = np.array(rows[1:])
    world.all_reduce(found, op="max")
    return np.median(found, axis=0)


def scaled(x):
    """A tensor that is no leaf, as between two layers."""
    result: Tensor = x * 1.0
    return result


def seconds(world, call):
    """Of a call that all ranks begin together."""
    world.barrier()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mbit", default="1000,100")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--widths", default="256,512")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    print(
        f"{'Mbit/s':>6}{'width':>6}{'computing':>10}{'talking':>9}{'in turn':>9}{'at once':>9}"
        f"{'can hide':>9}{'hidden':>8}{'of it':>7}   (ms)"
    )
    with NetworkPair() as pair, NetworkPairPool(pair, timeout=60.0) as pool:
        for mbit in map(int, given.mbit.split(",")):
            pair.set_rate(mbit)
            for width in map(int, given.widths.split(",")):
                how = {"tokens": given.tokens, "width": width, "rounds": given.rounds}
                found = pool.run(backward_seconds, deadline=300.0, **how)[0] * 1e3
                computing, in_turn, at_once, talking, product = found
                can, hidden = min(talking, product), computing + talking - at_once
                print(
                    f"{mbit:6}{width:6}{computing:10.1f}{talking:9.1f}{in_turn:9.1f}"
                    f"{at_once:9.1f}{can:9.1f}{hidden:8.1f}{hidden / can:7.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    os.environ.update(ONE_THREAD)
    main()
