"""The face: a group of ranks and everything that they can do together."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from ringlet.comm.arguments import rank_in_group, seconds
from ringlet.comm.arrays import Array, check_array, check_out, check_writable
from ringlet.comm.calls import collectives
from ringlet.comm.calls.channel import Channel
from ringlet.comm.calls.kinds import Kind
from ringlet.comm.calls.progress import Progress
from ringlet.comm.calls.recorded import call_class
from ringlet.comm.calls.transfer import Transfers
from ringlet.comm.calls.work import Work
from ringlet.comm.errors import CollectiveMismatch
from ringlet.comm.memory import Memory
from ringlet.comm.objects import pack_checked, unpack
from ringlet.comm.protocols import Program
from ringlet.comm.schedules.links import Links, measure
from ringlet.comm.signature import BARRIER, Signature


class Options(TypedDict, total=False):
    """What every collective takes besides its arrays."""

    async_op: bool
    """Return a `Work` at once, and run on the progress thread."""

    timeout: float | None
    """Seconds until CommTimeout; default: the world's."""

    label: str
    """Names the array in error messages."""

    algorithm: str
    """One of `schedules.algorithms`, "shared_memory" or, over MPI, "mpi"; default: the one with the
    lowest price."""


OPTIONS = frozenset(Options.__annotations__)


class Group:
    """Some ranks of the world. All of them must call the same collectives in the same order.

    Ranks in arguments (`dst`, `src`, `root`) count within the group; ranks in errors are the
    world's. Collectives also take `Options`. Arrays can have any shape, any memory order and any
    dtype that NumPy can add; they may be written again when a call, or `wait()`, returns.

    Raises `PeerLost`, `CommTimeout` and `CollectiveMismatch`, all of them `CommError`s. After one,
    the group cannot be used any more: every later collective raises the same error.
    """

    def __init__(self, channel: Channel, progress: Progress) -> None:
        self._channel, self._progress = channel, progress
        self._endpoint = channel.endpoint
        self._kinds = channel.kinds
        self._transfers, self._call_class = Transfers(channel), call_class()
        self._splits: dict[tuple[int, ...], int] = {}
        self._memory = Memory(channel, partial(_among, channel, progress))
        self.rank: int = channel.index
        self.size: int = len(channel.ranks)
        self.timeout: float = channel.context.timeout  # seconds, where a call does not say

    @property
    def ranks(self) -> tuple[int, ...]:
        """The members' ranks in the world, in the group's order."""
        return self._channel.ranks

    @property
    def shares_memory(self) -> bool:
        """Whether all ranks are on one host and collectives go through shared memory."""
        return self._channel.shared is not None

    def __repr__(self) -> str:
        return f"Group(rank={self.rank}, size={self.size}, ranks={list(self.ranks)})"

    # -- point to point -----------------------------------------------------------------------

    def send(self, x: Array, dst: int, tag: int = 0, *, timeout: float | None = None) -> None:
        """Send the array to rank `dst`; returns when its memory may be written again."""
        self.isend(x, dst, tag, timeout=timeout).wait()

    def recv(
        self, src: int, tag: int = 0, *, out: Array | None = None, timeout: float | None = None
    ) -> Array:
        """Receive the next array that rank `src` sent with this tag: a new one, or into `out`.

        Raises CollectiveMismatch if `out` has another shape or dtype; the array then waits for
        the next call.
        """
        result: Array = self.irecv(src, tag, out=out, timeout=timeout).wait()
        return result

    def isend(self, x: Array, dst: int, tag: int = 0, *, timeout: float | None = None) -> Work:
        """Start to send; the array must not change before the Work's `wait()` returns."""
        if self._endpoint.faults is not None:
            self._endpoint.faults.called("send")
        return self._transfers.isend(x, dst, tag, self._timeout(timeout))

    def irecv(
        self, src: int, tag: int = 0, *, out: Array | None = None, timeout: float | None = None
    ) -> Work:
        """Start to receive; `wait()` returns the array. Receives match in the order of issue."""
        if self._endpoint.faults is not None:
            self._endpoint.faults.called("recv")
        return self._transfers.irecv(src, tag, out, self._timeout(timeout))

    # -- collectives --------------------------------------------------------------------------

    def all_reduce(self, x: Array, op: str = "sum", **options: Unpack[Options]) -> Any:
        """Combine the ranks' arrays with sum, mean, prod, max or min; in place, returns `x`.

        Every rank gets the same bits. float16 is combined in float32.
        """
        kind = self._kinds.of_array("all_reduce", x, op)
        check_writable(x)
        return self._call(kind, collectives.all_reduce, (x,), options)

    def reduce_scatter(
        self, x: Array, op: str = "sum", *, out: Array | None = None, **options: Unpack[Options]
    ) -> Any:
        """Combine the ranks' arrays (size * k, ...) and return this rank's part (k, ...).

        `out` may be this rank's part of `x`: then what else is in `x` is lost, and no copy is made.
        `x` is copied where `out` is any other part of it.
        """
        kind = self._kinds.of_array("reduce_scatter", x, op)
        if out is not None:
            check_out(out, (x.shape[0] // self.size, *x.shape[1:]), x.dtype)
        return self._call(kind, collectives.reduce_scatter, (x, out), options)

    def all_gather(self, x: Array, *, out: Array | None = None, **options: Unpack[Options]) -> Any:
        """Return the ranks' arrays in the order of ranks: (size, *x.shape), or in `out`.

        `x` may be this rank's row of `out`; it is copied where it is any other part of it.
        """
        kind = self._kinds.of_array("all_gather", x)
        if out is not None:
            check_out(out, (self.size, *x.shape), x.dtype)
        return self._call(kind, collectives.all_gather, (x, out), options)

    def all_to_all(self, x: Array, *, out: Array | None = None, **options: Unpack[Options]) -> Any:
        """Send part p of `x` (size * k, ...) to rank p; return the parts received, in order."""
        kind = self._kinds.of_array("all_to_all", x)
        if out is not None:
            check_out(out, x.shape, x.dtype)
        return self._call(kind, collectives.all_to_all, (x, out), options)

    def broadcast(self, x: Array, root: int = 0, **options: Unpack[Options]) -> Any:
        """Copy the root's array into every rank's; in place, returns `x`."""
        root = rank_in_group(root, self.size)
        kind = self._kinds.of_array("broadcast", x, root=root)
        if self.rank != root:
            check_writable(x)
        return self._call(kind, collectives.broadcast, (x,), options)

    def reduce(self, x: Array, root: int = 0, op: str = "sum", **options: Unpack[Options]) -> Any:
        """Combine the ranks' arrays on the root: in place there, where it returns `x`.

        The other ranks' arrays stay as they are, and they get None.
        """
        root = rank_in_group(root, self.size)
        kind = self._kinds.of_array("reduce", x, op, root)
        if self.rank == root:
            check_writable(x)
        return self._call(kind, collectives.reduce, (x,), options)

    def gather(self, x: Array, root: int = 0, **options: Unpack[Options]) -> Any:
        """Return the ranks' arrays (size, *x.shape) on the root, None elsewhere."""
        kind = self._kinds.of_array("gather", x, root=rank_in_group(root, self.size))
        return self._call(kind, collectives.gather, (x,), options)

    def scatter(self, x: Array | None, root: int = 0, **options: Unpack[Options]) -> Any:
        """Return this rank's row of the root's array (size, ...); the others pass None."""
        root = rank_in_group(root, self.size)
        if self.rank == root:
            kind = self._kinds.of_array("scatter", x, root=root)
        else:
            signature = Signature("scatter", "", (), f"root {root}")
            kind = self._kinds.of(signature, root=root)
        return self._call(kind, collectives.scatter, (x,), options)

    def barrier(self, **options: Unpack[Options]) -> Any:
        """Return when every rank of the group has called it."""
        return self._call(self._kinds.of(BARRIER), collectives.barrier, (), options)

    # -- objects, groups, memory --------------------------------------------------------------

    def broadcast_object(self, obj: Any, root: int = 0, *, timeout: float | None = None) -> Any:
        """Return the root's object on every rank.

        Objects are what msgpack knows (None, bool, int, float, str, bytes, list, dict) and NumPy
        arrays; tuples arrive as lists. Raises TypeError for others, before anything is sent.
        """
        root = rank_in_group(root, self.size)
        data, value = pack_checked(obj) if self.rank == root else (np.empty(0, np.uint8), None)
        length = np.array([data.size], np.int64)
        self.broadcast(length, root, timeout=timeout, label="object's length")
        if self.rank != root:
            data = np.empty(int(length[0]), np.uint8)
        self.broadcast(data, root, timeout=timeout, label="object")
        return value if self.rank == root else unpack(data)

    def all_gather_object(self, obj: Any, *, timeout: float | None = None) -> list[Any]:
        """Return every rank's object, in the order of ranks; see `broadcast_object`."""
        data, value = pack_checked(obj)
        lengths = self.all_gather(np.array(data.size), timeout=timeout, label="objects' lengths")
        padded = np.zeros(int(lengths.max()), np.uint8)
        padded[: data.size] = data
        rows = self.all_gather(padded, timeout=timeout, label="objects")
        return [
            value if rank == self.rank else unpack(row[: lengths[rank]])
            for rank, row in enumerate(rows)
        ]

    def split(self, ranks: Sequence[int], *, timeout: float | None = None) -> "Group | None":
        """A group of these ranks (of this group), in this order; None on ranks outside it.

        A collective: every rank of this group calls it. All may pass the same list, or each the
        list of its own new group. Raises CollectiveMismatch when two ranks of one new group
        passed different lists.
        """
        members = tuple(rank_in_group(rank, self.size) for rank in ranks)
        if len(set(members)) != len(members):
            raise ValueError(f"{list(members)} are not different ranks of a group of {self.size}")
        lists = self.all_gather_object(list(members), timeout=timeout)
        for rank in members:
            if self.rank in members and tuple(lists[rank]) != members:
                raise CollectiveMismatch(
                    f"split: rank {self.rank} asks for a group of {list(members)}, "
                    f"rank {rank} for one of {lists[rank]}"
                )
        count = self._splits.get(members, 0)
        self._splits[members] = count + 1
        if self.rank not in members:
            return None
        name = f"{self._channel.id}/{members}/{count}"
        id = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
        ranks = tuple(self.ranks[rank] for rank in members)
        group = Group(Channel(self._channel.context, id, ranks), self._progress)
        if self._memory.wanted:
            shared = self._channel.shared
            group._memory.open(None if shared is None else shared.control)
        return group

    @property
    def links(self) -> str:
        """What is known of the links, as text: RINGLET_LINKS takes it to choose alike again."""
        return str(self._channel.context.links)

    def measure_links(self) -> Links:
        """Latency, bandwidth and cost of a message between the ranks as they are now: see `links`.

        A collective. What runs stays as it is.
        """
        return measure(self._memory.side(), self._channel.hosts)

    def empty(self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32) -> Array:
        """Uninitialised registered memory: collectives on it do not copy on one host.

        A collective: every rank of the group calls it with the same shape and dtype. The array,
        and any contiguous part of it, can be used in this group and in groups split from it. The
        memory is aligned to a cache line and stays while a rank has an array in it. Ranks on
        several hosts share it with those of their host; where ranks share no memory it is ordinary.
        """
        self._channel.context.check_open()
        like = np.broadcast_to(np.empty((), dtype), shape)  # raises what NumPy has against it
        check_array(like)
        return self._memory.allocate(like.nbytes).view(like.dtype).reshape(like.shape)

    def stats(self) -> dict[str, Any]:
        """What this rank sent and received in this group: by operation and by peer.

        {"operations": {name: {"calls", "seconds", "messages_sent", "bytes_sent",
        "messages_received", "bytes_received"}}, "peers": {world rank: {the last four}}}; bytes
        are payload bytes, seconds run from a call's issue to its end.
        """
        self._channel.context.check_open()
        return self._channel.stats.snapshot()

    # -- inside -------------------------------------------------------------------------------

    def _call(
        self,
        kind: Kind,
        body: Callable[..., Program],
        arguments: tuple[Any, ...],
        options: Options,
    ) -> Any:
        """Run a collective in this thread, or on the progress thread behind the earlier ones."""
        channel, faults = self._channel, self._endpoint.faults
        count = 0 if faults is None else faults.called(kind.task.operation)
        timeout, label, async_op = self.timeout, "", False
        if options:
            if unknown := options.keys() - OPTIONS:
                raise TypeError(f"{kind.task.operation} takes no argument {', '.join(unknown)}")
            timeout = self._timeout(options.get("timeout"))
            label, async_op = str(options.get("label", "")), options.get("async_op", False)
            if algorithm := options.get("algorithm", ""):
                kind = self._kinds.by(kind, str(algorithm))
        # The interpreter changes threads, and takes signals, at calls: not between these lines.
        if channel.busy:
            raise channel.taken(kind.task.operation)
        channel.busy = True
        try:
            record = channel.next_collective(kind.signature)
            make = self._call_class
            call = make(channel, kind.signature, record, timeout, label, kind.nbytes)
            program = body(call, kind, *arguments)
            if faults is not None:
                program = faults.through(kind.task.operation, count, program)
            if channel.queue or async_op:
                self._progress.submit(call, program)
                return call if async_op else call.wait()
            return call.drive(program)
        finally:
            channel.busy = False

    def _timeout(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else seconds(timeout)


def _among(channel: Channel, progress: Progress, name: str, members: list[int]) -> Group:
    """Some of the ranks, on a channel of their own."""
    ranks = tuple(channel.ranks[rank] for rank in members)
    return Group(Channel(channel.context, f"{channel.id}/{name}", ranks), progress)
