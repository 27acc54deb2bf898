"""How the ranks of a group come to share memory: control blocks, hierarchies, registered arrays."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ringlet.comm.arrays import CACHE_LINE, Array, address_of
from ringlet.comm.calls.channel import Channel
from ringlet.comm.schedules.choice import Choice, Policy
from ringlet.comm.schedules.links import Links
from ringlet.comm.shared.constants import settle
from ringlet.comm.shared.control_block import ControlBlock, open_control_block
from ringlet.comm.shared.segment import share
from ringlet.comm.shared.transport import SharedMemory


class Memory:
    """The shared memory of one group. Its methods are collectives.

    `among(name, members)` makes a group of some of the ranks, on a channel of their own.
    """

    def __init__(self, channel: Channel, among: Callable[[str, list[int]], Any]) -> None:
        self._channel, self._among = channel, among
        self._allocations = 0
        self._side: Any = None
        self._on_host: Memory | None = None  # in a hierarchy
        self.wanted = False  # use it where it can be had

    def open(self, parent: ControlBlock | None = None) -> None:
        """Use shared memory from now on, where ranks can reach it.

        `parent` is the control block of the group from which this one was split.
        """
        self.wanted, channel = True, self._channel
        if channel.context.one_machine(channel.ranks):
            control = open_control_block(self.side(), parent)
            if control is not None:
                shared = SharedMemory(control, channel.context.regions, channel.sockets)
                channel.use_memory(shared)
                if parent is None:
                    settle(self._trial(shared), shared)
        if channel.shared is None and (channel.sockets.choice.per_host or 1) > 1:
            self._open_hierarchy()

    def _open_hierarchy(self) -> None:
        """Share memory among the ranks of each host, if that is possible on all hosts."""
        hosts, rank = self._channel.hosts, self._channel.index
        near = [other for other, host in enumerate(hosts) if host == hosts[rank]]
        place = near.index(rank)
        across = [
            [other for other, host in enumerate(hosts) if host == one][place]
            for one in sorted(set(hosts))
        ]
        inside = self._among("inside", near)
        inside._memory.open()
        shared: SharedMemory | None = inside._memory._channel.shared
        if all(self.side().all_gather_object(shared is not None)) and shared is not None:
            self._on_host = inside._memory
            self._channel.use_hierarchy(shared, self._among("across", across)._memory._channel)

    def side(self) -> Any:
        """The same ranks as a group of its own, without shared memory: for setting it up.

        The numbers of the group's calls in messages stay the user's.
        """
        if self._side is None:
            self._side = self._among("side", list(range(len(self._channel.ranks))))
            channel: Channel = self._side._memory._channel
            channel.sockets.choice = Choice(channel.hosts, Policy(by_price=False), Links())
        return self._side

    def _trial(self, shared: SharedMemory) -> Any:
        """The same ranks as a group of its own, whose calls count among nobody's."""
        trial = self._among("trial", list(range(len(self._channel.ranks))))
        trial._memory._channel.use_memory(shared)
        return trial

    def allocate(self, nbytes: int) -> Array:
        """Bytes that all ranks of this host share, if they can; aligned to a cache line."""
        if self._on_host is not None:
            return self._on_host.allocate(nbytes)
        channel = self._channel
        segments = share(self.side(), nbytes) if nbytes and channel.shared is not None else None
        if segments is None:
            memory = np.empty(nbytes + CACHE_LINE, np.uint8)
            start = -address_of(memory) % CACHE_LINE
            return memory[start : start + nbytes]
        self._allocations += 1
        name = f"{channel.id}/{self._allocations}".encode()
        id = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") | 1
        by_rank = dict(zip(channel.ranks, segments, strict=True))
        return channel.context.regions.add(id, channel.endpoint.rank, by_rank)[:nbytes]
