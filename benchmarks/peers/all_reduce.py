"""The peers' side of all_reduce.py: float32 sums with Gloo or Open MPI.

Started by torchrun or mpirun; rank 0 prints a JSON line for each size in bytes (its first
argument is the peer, the others are sizes). A figure is the median of rank 0's times.
"""

import json
import statistics
import sys
import time


def repetitions(nbytes):
    """Enough for a median, not so many that large arrays take minutes."""
    return max(8, min(300, int(2e8 / nbytes)))


def measure(all_reduce, barrier, nbytes):
    """The median in microseconds."""
    for _ in range(3):
        all_reduce()
    barrier()
    times = []
    for _ in range(repetitions(nbytes)):
        start = time.perf_counter()
        all_reduce()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def gloo(sizes):
    """PyTorch's process group."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for nbytes in sizes:
        x = torch.zeros(nbytes // 4)
        yield dist.get_rank(), measure(lambda x=x: dist.all_reduce(x), dist.barrier, nbytes)
    dist.destroy_process_group()


def openmpi(sizes):
    """mpi4py."""
    import numpy as np
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    for nbytes in sizes:
        x = np.zeros(nbytes // 4, np.float32)
        yield (
            world.rank,
            measure(lambda x=x: world.Allreduce(MPI.IN_PLACE, x), world.Barrier, nbytes),
        )


if __name__ == "__main__":
    sizes = [int(text) for text in sys.argv[2:]]
    program = {"gloo": gloo, "openmpi": openmpi}[sys.argv[1]]
    for nbytes, (rank, microseconds) in zip(sizes, program(sizes), strict=True):
        if rank == 0:
            print(json.dumps({"bytes": nbytes, "us": microseconds}), flush=True)
