"""Compressed sums of a bucket of gradients: bytes and milliseconds against plain; codecs' GB/s.

    python benchmarks/compression.py                        # 1 Mi floats, 2 ranks, shared memory
    python benchmarks/compression.py --transport tcp        # through the loopback's sockets

One thread for each rank. All ways run in turns, `--rounds` times each; reported is the
median. The bucket is one square matrix, as near as its size allows. `below` is a reckoning: on a
link slower than that a compressor wins, if nothing is hidden behind computing, as the bytes that it
saves take longer there than what it adds to the time here.
"""

import argparse
import os
import statistics
import time

import numpy as np
from peer_programs import ONE_THREAD

from ringlet.launcher.testing.pool import WorkerPool
from ringlet.runtime.compression import CODECS, bytes_sent, make_compressor

SPECS = ["float16", "bfloat16", "int8", "topk:0.01", "powersgd:4"]


def shape_of(size):
    """The most square matrix of that many elements."""
    rows = next(n for n in range(int(size**0.5), 0, -1) if size % n == 0)
    return [(0, size, (rows, size // rows))]


def seconds(world, size, rounds):
    """The times of each way, by name."""
    gradient = np.random.default_rng(world.rank).standard_normal(size, np.float32)
    residual, grad = np.zeros(size, np.float32), world.empty(size)
    ways = {"plain": lambda: world.all_reduce(grad)}
    for spec in SPECS:
        compressor = make_compressor(spec, world)
        ways[spec] = lambda c=compressor: c.start(grad, residual, shape_of(size)).wait()
    times = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            grad[...] = gradient
            residual.fill(0)
            world.barrier()
            started = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def speed(size, rounds):
    """GB/s of float32 through each codec: encoding, the same with error feedback, decoding."""
    x = np.random.default_rng(0).standard_normal(size, np.float32)
    for name, codec in CODECS.items():
        data, decoded = codec.encode(x), np.empty_like(x)
        sent, residual = x.copy(), np.zeros_like(x)
        ways = {
            "encode": lambda: codec.encode(x, data),  # noqa: B023
            "with feedback": lambda: codec.feed_back(sent, residual, data),  # noqa: B023
            "decode": lambda: codec.decode(data, decoded),  # noqa: B023
        }
        rates = {way: x.nbytes / median(call, rounds) / 1e9 for way, call in ways.items()}
        print(f"{name:10}  {'   '.join(f'{way} {rate:5.1f} GB/s' for way, rate in rates.items())}")


def median(way, rounds):
    """Seconds of a call."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        way()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def report(found, size, ranks):
    """One line for each way."""
    slowest = {name: max(result[name] for result in found) for name in found[0]}
    plain_bytes = 2 * (ranks - 1) * 4 * size // ranks
    for name, taken in slowest.items():
        sent = plain_bytes
        if name != "plain":
            sent = bytes_sent(name, size, shape_of(size), ranks)
        less = "" if name == "plain" else f"({plain_bytes / sent:.1f}x less)"
        line = f"{name:10}  {sent:9,} bytes {less:13}  {taken * 1e3:6.2f} ms"
        added = taken - slowest["plain"]
        if added > 0:
            line += f"   below {(plain_bytes - sent) * 8 / added / 1e6:7,.0f} Mbit/s"
        print(line)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in (("size", 2**20), ("ranks", 2), ("rounds", 30)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--transport", default="auto", help="auto, ipc or tcp")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    with WorkerPool(options.ranks, options.transport, timeout=60.0) as pool:
        found = pool.run(seconds, deadline=300.0, size=options.size, rounds=options.rounds)
    report(found, options.size, options.ranks)
    speed(options.size, options.rounds)


if __name__ == "__main__":
    main()
