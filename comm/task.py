"""A collective as data: what goes in, what comes out, and where both lie."""

from typing import NamedTuple

from ringlet.comm.arrays import Array


class Task(NamedTuple):
    """One rank's part in a collective. `source` and `result` are contiguous and 1-D.

    `source` is what this rank puts in, `result` where what it gets goes: the same memory in
    all_reduce, broadcast and reduce; this rank's share in reduce_scatter and scatter; all rows in
    all_gather and gather. Where only the root has one of them, the other ranks' is a placeholder
    of the same length that is never touched.
    """

    operation: str
    source: Array
    result: Array
    op: str = ""
    root: int = 0
