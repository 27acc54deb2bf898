"""ZeRO stages 2 and 3: gradients, and parameters, are whole for a few blocks at a time only.

Rajbhandari, Rasley, Ruwase and He, "ZeRO: memory optimizations toward training trillion parameter
models" (2020). Stage 2 shards the gradients too, and sends them in every pass; stage 3 also shards
the parameters, which are gathered for the forward and for the backward pass: it sends half as much
again as an all-reduce.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ringlet.comm import Group
from ringlet.nn import Module, Parameter, Slot, common_dtype
from ringlet.nn.autograd.backward_hooks import Mark
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import copy_from_host, xp
from ringlet.runtime.data.reducer import Bucket, Reducer
from ringlet.runtime.data.zero import Shard, slots_within
from ringlet.runtime.device_collectives import Pending, all_gather, empty, reduce_scatter

BUFFERS = 2
"""Blocks whose gradients or parameters are here at once: one in use, one on its way."""

UnitParameters: TypeAlias = tuple[Sequence[tuple[str, Parameter]], Module | None]
"""Names and parameters of a block, or of what lies outside the blocks (None)."""


@dataclass(eq=False)
class UnitBuffer:
    """Room for one unit's gradients or parameters at a time."""

    array: Array
    owner: "Unit | None" = None
    pending: Pending | None = None


@dataclass(eq=False)
class Unit(Bucket):
    """A bucket with the parameters of one block, or all those outside the blocks (`block` None).

    Its slots count from its own start. `kept` is this rank's part of it in the shard.
    """

    block: Module | None = None
    kept: slice = field(default_factory=lambda: slice(0, 0))
    grad: UnitBuffer = field(init=False)
    data: UnitBuffer = field(init=False)


def make_units(parameters: Sequence[UnitParameters], ranks: int) -> list[Unit]:
    """Lay units out one after the other, each padded to a multiple of the number of ranks."""
    units: list[Unit] = []
    start = 0
    for named, block in parameters:
        slots: list[Slot] = []
        place = 0
        for name, parameter in named:
            stop = place + parameter.numel()
            slots.append(Slot(name, parameter, place, stop, parameter.shape))
            place = stop
        stop = start + place + -place % ranks
        kept = slice(start // ranks, stop // ranks)
        units.append(Unit(start, stop, slots, len(slots), block, kept))
        start = stop
    return units


class ZeroGradients(Reducer):
    """Stage 2: a block's gradients are reduce-scattered once they are final, and forgotten.

    `parameters` are those outside the blocks, if there are any here, and those of each block, in
    the order of the forward pass.
    """

    def __init__(self, parameters: Sequence[UnitParameters], group: Group) -> None:
        self._units = make_units(parameters, group.size)
        super().__init__(group, self._units)
        self._blocks = [unit for unit in self._units if unit.block is not None]
        self._dtype = common_dtype(self.parameters.values())
        size = self._units[-1].kept.stop
        self._grad = xp.zeros(size, self._dtype)
        self._make_buffers("grad")
        self._make_data(size)
        self._watch()
        slots: list[Slot] = []
        for unit in self._units:
            self._bind(unit)
            part = self._part(unit)
            slots += slots_within(unit.slots, part.start, part.stop, unit.kept.start)
        self.shard = Shard(slots, [(self._kept(u), self._grad[u.kept]) for u in self._units])

    def begin(self, passes: int = 1) -> None:
        super().begin(passes)
        self._grad.fill(0)

    def before_backward(self, unit: Unit) -> None:
        """A block's backward begins: its buffer must be free."""
        self._settle(unit.grad)

    def end_pass(self) -> None:
        """Send what got only some of its gradients, with zeros for the others."""
        for unit in reversed(self._units):
            if unit.waiting < len(unit.slots):
                self._send(unit)
        for unit in self._units:
            self._settle(unit.grad)

    def publish(self) -> None:
        works = [self._gather(unit) for unit in self._units]
        for work in works:
            work.wait()

    def _gather(self, unit: Unit) -> Pending:
        part, whole = self._kept(unit), unit.data.array[: unit.size].reshape(self._group.size, -1)
        return all_gather(self._group, part, out=whole, async_op=True, label="parameters")

    def _bind(self, unit: Unit) -> None:
        """Make the parameters views of the unit's buffers; their values stay behind."""
        for slot in unit.slots:
            place = slice(slot.start, slot.stop)
            slot.parameter.data = unit.data.array[place].reshape(slot.shape)
            slot.parameter.bind_grad(unit.grad.array[place].reshape(slot.shape))
        if unit.block is not None:
            unit.block.register_forward_hook(
                lambda block, inputs, y: Mark(lambda grad: self.before_backward(unit))(y)
            )

    def _bucket_final(self, bucket: Any) -> None:
        self._send(bucket)

    def _send(self, unit: Unit) -> None:
        """Start to sum a unit's gradients; this rank's part stays in its place of the buffer."""
        buffer = unit.grad
        self._settle(buffer)
        for slot in unit.slots:
            _ = slot.parameter.grad  # zeros where backward wrote nothing
        buffer.array[unit.slots[-1].stop : unit.size] = 0  # the padding
        whole = buffer.array[: unit.size]
        buffer.owner = unit
        buffer.pending = reduce_scatter(
            self._group, whole, out=whole[self._part(unit)], async_op=True, label="gradients"
        )
        unit.waiting = len(unit.slots)

    def _settle(self, buffer: UnitBuffer) -> None:
        """Add what was on its way to the shard's gradients; then the buffer is free."""
        unit, pending = buffer.owner, buffer.pending
        if unit is None or pending is None:
            return
        self._wait_for([pending])
        self._grad[unit.kept] += buffer.array[self._part(unit)]
        buffer.owner = buffer.pending = None
        for slot in unit.slots:
            slot.parameter.zero_grad()

    def _part(self, unit: Unit) -> slice:
        length = unit.size // self._group.size
        return slice(self._group.rank * length, (self._group.rank + 1) * length)

    def _make_buffers(self, kind: str) -> None:
        """Make a few that the blocks use in turn, and one for what lies outside the blocks.

        A block always has the same buffer, so that views of it stay right; what lies outside the
        blocks is in use all the time.
        """
        largest = max((unit.size for unit in self._blocks), default=0)
        turns = [
            UnitBuffer(empty(self._group, (largest,), self._dtype))
            for _ in range(min(BUFFERS, len(self._blocks)))
        ]
        for unit in self._units:
            if unit.block is None:
                setattr(unit, kind, UnitBuffer(empty(self._group, (unit.size,), self._dtype)))
            else:
                setattr(unit, kind, turns[self._blocks.index(unit) % len(turns)])

    def _make_data(self, size: int) -> None:
        """Make the whole parameters, of which the shard is views."""
        self._data = empty(self._group, (size * self._group.size,), self._dtype)
        self._data.fill(0)
        for unit in self._units:
            unit.data = UnitBuffer(self._data[unit.start : unit.stop])

    def _kept(self, unit: Unit) -> Array:
        """What this rank keeps of a unit's parameters."""
        return unit.data.array[self._part(unit)]


class ZeroParameters(ZeroGradients):
    """Stage 3: a block's parameters are gathered just before use, the next block's meanwhile.

    What lies outside the blocks is gathered once for each step.
    """

    def begin(self, passes: int = 1) -> None:
        super().begin(passes)
        self.before_forward()

    def before_forward(self) -> None:
        for unit in self._units:
            if unit.block is None:
                self._ensure(unit)

    def before_backward(self, unit: Unit) -> None:
        """The block's parameters are needed too, and next those of the block before."""
        self._use(unit, -1)
        super().before_backward(unit)

    def publish(self) -> None:
        """What was gathered is out of date now."""
        for unit in self._units:
            unit.data.owner = None

    def kept(self, name: str) -> tuple[int, int]:
        slots = [slot for slot in self.shard.slots if slot.name == name]  # one at most
        return next(((s.first, s.first + s.stop - s.start) for s in slots), (0, 0))

    def store_part(self, name: str, values: Array, first: int) -> None:
        for slot in self.shard.slots:
            if slot.name == name:
                data, _ = self.shard.views(slot.start, slot.stop)
                place = slot.first - first
                copy_from_host(data, values[place : place + slot.stop - slot.start])
        self.publish()

    def _ensure(self, unit: Unit) -> None:
        self._start_gather(unit)
        buffer = unit.data
        if buffer.pending is not None:
            self._wait_for([buffer.pending])
            buffer.pending = None

    def _use(self, unit: Unit, step: int) -> None:
        """Have a block's parameters here, and start to gather those of the one `step` after it."""
        self._ensure(unit)
        following = self._blocks.index(unit) + step
        if 0 <= following < len(self._blocks):
            self._start_gather(self._blocks[following])

    def _start_gather(self, unit: Unit) -> None:
        buffer = unit.data
        if buffer.owner is unit:
            return
        if buffer.pending is not None:
            buffer.pending.wait()  # what was fetched ahead is not wanted after all
        buffer.owner = unit
        buffer.pending = self._gather(unit)

    def _bind(self, unit: Unit) -> None:
        super()._bind(unit)
        if unit.block is not None:
            unit.block.register_forward_pre_hook(lambda *_: self._use(unit, 1))

    def _make_data(self, size: int) -> None:
        """Make only the shard, and buffers for a few blocks."""
        self._data = empty(self._group, (size,), self._dtype)
        self._data.fill(0)
        self._make_buffers("data")

    def _kept(self, unit: Unit) -> Array:
        return self._data[unit.kept]
