"""The keys and values that attention keeps from one generated token to the next."""

from ringlet.nn.backend import Array, asarray, xp

__all__ = ["KeyValueCache"]

FIRST_ROOM = 64
"""The number of positions a new cache has room for."""


class KeyValueCache:
    """The keys and values of one attention layer for the positions seen so far.

    Its memory doubles when it is full, up to `capacity` positions (None: no limit).
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity, self.length = capacity, 0
        self._memory: Array | None = None

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add (B, H, T, D) keys and values; returns those of all positions so far."""
        end = self.length + k.shape[2]
        if self._capacity is not None and end > self._capacity:
            raise ValueError(f"{end} positions in a cache of {self._capacity}")
        memory = self._room(k, end)
        memory[0, :, :, self.length : end] = k
        memory[1, :, :, self.length : end] = v
        self.length = end
        return memory[0, :, :, :end], memory[1, :, :, :end]

    @property
    def filled(self) -> tuple[Array, Array]:
        """The keys and values of all positions so far; there must be at least one."""
        assert self._memory is not None
        return self._memory[0, :, :, : self.length], self._memory[1, :, :, : self.length]

    def select(self, rows: Array) -> None:
        """Continue with these rows of the batch, in this order; rows may be repeated."""
        if self._memory is not None:
            self._memory = self._memory[:, asarray(rows)]

    def _room(self, k: Array, end: int) -> Array:
        """The memory, with room for positions up to `end`."""
        have = 0 if self._memory is None else self._memory.shape[3]
        if self._memory is None or end > have:
            batch, heads, _, width = k.shape
            room = max(end, 2 * have, FIRST_ROOM)
            if self._capacity is not None:
                room = min(room, self._capacity)
            larger = xp.empty((2, batch, heads, room, width), k.dtype)
            if self._memory is not None:
                larger[:, :, :, : self.length] = self._memory[:, :, :, : self.length]
            self._memory = larger
        return self._memory
