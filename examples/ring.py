"""An all-reduce made of messages: `ringlet run -n 4 examples/ring.py`.

Each rank cuts its array into as many chunks as there are ranks. On their first way round the ring
chunks are added up: each rank adds its own share and passes the sum on. After n - 1 rounds every
rank has one finished chunk, and on the second way round these are passed on unchanged. Each rank
sends 2 (n - 1) / n of the array, however many ranks there are (Patarasuk and Yuan, "Bandwidth
optimal all-reduce algorithms for clusters of workstations", 2009).
"""

import numpy as np

from ringlet import comm


def ring_all_reduce(world, x):
    """Sum the ranks' arrays in place; x is 1-D, its length a multiple of the number of ranks."""
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    chunks = x.reshape(world.size, -1)
    for turn in range(2 * (world.size - 1)):
        leaving = (world.rank - turn) % world.size
        arriving = (leaving - 1) % world.size
        sending = world.isend(chunks[leaving], right)
        received = world.recv(left)
        sending.wait()
        if turn < world.size - 1:
            chunks[arriving] += received
        else:
            chunks[arriving] = received
    return x


world = comm.init()
mine = np.arange(12 * world.size, dtype=np.float64) + 1000 * world.rank
by_hand = ring_all_reduce(world, mine.copy())
by_the_library = world.all_reduce(mine.copy())
np.testing.assert_array_equal(by_hand, by_the_library)

sent = world.stats()["operations"].get("send", {"bytes_sent": 0})["bytes_sent"]
print(f"rank {world.rank} sent {sent} bytes for an array of {mine.nbytes}")
