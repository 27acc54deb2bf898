"""ZeRO stages 2 and 3: gradients, and parameters, are whole for a few blocks at a time only.

Rajbhandari, Rasley, Ruwase and He, "ZeRO: memory optimizations toward training trillion parameter
models" (2020). Stage 2 cuts the gradients too, and sends them in every pass; stage 3 also cuts the
parameters, which are gathered for the forward and for the backward pass: it sends half as much
again as an all-reduce.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ringlet.comm import Group
from ringlet.nn import Module, Operation, Parameter, Slot, Tensor, common_dtype
from ringlet.nn.autograd.deferred import Gradient
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import copy_from_host, xp
from ringlet.nn.module import ForwardPreHook
from ringlet.runtime.data.data_parallel import Reducer
from ringlet.runtime.data.zero import Shard, slots_within
from ringlet.runtime.staging import all_gather, empty, reduce_scatter
from ringlet.runtime.tensor.regions import Pending

MEMORIES = 2
"""Blocks whose gradients or parameters are here at once: one in use, one on its way."""


@dataclass(eq=False)
class Memory:
    """Room for one unit's gradients or parameters at a time."""

    array: Array
    owner: "Unit | None" = None
    pending: Pending | None = None


@dataclass(eq=False)
class Unit:
    """The parameters of one block, or all those outside the blocks (`block` is None there).

    They are `size` elements with padding, of which this rank keeps `kept` in the shard.
    """

    named: list[tuple[str, Parameter]]
    block: Module | None
    slots: list[Slot] = field(default_factory=list)
    size: int = 0
    kept: slice = field(default_factory=lambda: slice(0, 0))
    waiting: int = 0
    grad: Memory = field(init=False)
    data: Memory = field(init=False)

    def place(self, multiple: int, offset: int) -> None:
        """Lay the parameters out one after the other."""
        place = 0
        for name, parameter in self.named:
            stop = place + parameter.size
            self.slots.append(Slot(name, parameter, place, stop, parameter.shape))
            place = stop
        self.size = place + -place % multiple
        self.kept = slice(offset, offset + self.size // multiple)
        self.waiting = len(self.slots)

    @property
    def filled(self) -> int:
        """Elements without padding."""
        return self.slots[-1].stop


class Boundary(Operation):
    """The end of a block: in backward, tells that the block's gradients are about to be made."""

    def __init__(self, reducer: "ZeroGradients", unit: Unit) -> None:
        self.reducer, self.unit = reducer, unit

    def forward(self, x: Array) -> Array:
        return x

    def backward(self, grad: Array) -> Sequence[Gradient]:
        self.reducer.before_backward(self.unit)
        return (grad,)


class ZeroGradients(Reducer):
    """Stage 2: a block's gradients are reduce-scattered once they are final, and forgotten.

    `units` are the parameters outside the blocks, if there are any here, and those of each block,
    in the order of the forward pass.
    """

    def __init__(self, units: Sequence[Unit], group: Group, copy: bool = True) -> None:
        self._group, self._units = group, list(units)
        self._blocks = [unit for unit in self._units if unit.block is not None]
        self.parameters = {name: p for unit in self._units for name, p in unit.named}
        self._dtype = common_dtype(self.parameters.values())
        offset = 0
        for unit in self._units:
            unit.place(group.size, offset)
            offset = unit.kept.stop
        self._grad = xp.zeros(offset, self._dtype)
        self._waited = 0.0
        self._unit_of = {id(p): unit for unit in self._units for _, p in unit.named}
        self._make_memories("grad")
        for unit in self._units:
            self._bind(unit)
        self._make_data(offset, copy)

    # -- the step -----------------------------------------------------------------------------

    def begin(self, passes: int = 1) -> None:
        """See Reducer."""
        self._grad.fill(0)
        self._waited = 0.0

    def before_backward(self, unit: Unit) -> None:
        """A block's backward begins: its memory must be free."""
        self._settle(unit.grad)

    def end_pass(self) -> None:
        """See Reducer. What got only some of its gradients has zeros for the others."""
        for unit in reversed(self._units):
            if unit.waiting < len(unit.slots):
                self._send(unit)
        for unit in self._units:
            self._settle(unit.grad)

    def finish(self) -> float:
        """See Reducer."""
        return self._waited

    def publish(self) -> None:
        """See Reducer."""
        works = [
            all_gather(
                self._group,
                self._data_part(unit),
                out=unit.data.array.reshape(self._group.size, -1),
                async_op=True,
                label="parameters",
            )
            for unit in self._units
        ]
        for work in works:
            work.wait()

    # -- gradients ----------------------------------------------------------------------------

    def _bind(self, unit: Unit) -> None:
        for slot in unit.slots:
            memory = unit.grad.array[slot.start : slot.stop].reshape(slot.shape)
            slot.parameter.bind_grad(memory)
            slot.parameter.register_post_accumulate_grad_hook(self._final)
        if unit.block is not None:
            unit.block.register_forward_hook(lambda block, arguments, y: self._bound(unit, y))

    def _bound(self, unit: Unit, y: Tensor) -> Tensor:
        return Boundary(self, unit)(y)

    def _final(self, parameter: Parameter) -> None:
        unit = self._unit_of[id(parameter)]
        unit.waiting -= 1
        if not unit.waiting:
            self._send(unit)

    def _send(self, unit: Unit) -> None:
        """Start to sum a unit's gradients; this rank's part stays in its place of the memory."""
        memory = unit.grad
        self._settle(memory)
        for slot in unit.slots:
            _ = slot.parameter.grad  # zeros where backward wrote nothing
        memory.array[unit.filled : unit.size] = 0
        whole = memory.array[: unit.size]
        memory.owner = unit
        memory.pending = reduce_scatter(
            self._group, whole, out=whole[self._part(unit)], async_op=True, label="gradients"
        )
        unit.waiting = len(unit.slots)

    def _settle(self, memory: Memory) -> None:
        """Add what was on its way to the shard's gradients; then the memory is free."""
        unit, pending = memory.owner, memory.pending
        if unit is None or pending is None:
            return
        started = time.perf_counter()
        pending.wait()
        self._waited += time.perf_counter() - started
        self._grad[unit.kept] += memory.array[self._part(unit)]
        memory.owner = memory.pending = None
        for slot in unit.slots:
            slot.parameter.zero_grad()

    def _part(self, unit: Unit) -> slice:
        length = unit.size // self._group.size
        return slice(self._group.rank * length, (self._group.rank + 1) * length)

    # -- memory -------------------------------------------------------------------------------

    def _make_memories(self, kind: str) -> None:
        """A few for all blocks in turns, always the same for the same block, so that views of it
        stay right; and one for what lies outside the blocks, which is in use all the time."""
        largest = max((unit.size for unit in self._blocks), default=0)
        turns = [
            Memory(empty(self._group, (largest,), self._dtype))
            for _ in range(min(MEMORIES, len(self._blocks)))
        ]
        for unit in self._units:
            if unit.block is None:
                setattr(unit, kind, Memory(empty(self._group, (unit.size,), self._dtype)))
            else:
                setattr(unit, kind, turns[self._blocks.index(unit) % len(turns)])

    def _make_data(self, size: int, copy: bool) -> None:
        """The whole parameters, of which the shard is views."""
        whole = empty(self._group, (size * self._group.size,), self._dtype)
        slots: list[Slot] = []
        start = 0
        for unit in self._units:
            unit.data = Memory(whole[start : start + unit.size])
            start += unit.size
            unit.data.array[unit.filled :] = 0
            self._move(unit, copy)
            part = self._part(unit)
            slots += slots_within(unit.slots, part.start, part.stop, unit.kept.start)
        self.shard = Shard(slots, [(self._data_part(u), self._grad[u.kept]) for u in self._units])

    def _data_part(self, unit: Unit) -> Array:
        """What this rank keeps of a unit's parameters."""
        return unit.data.array[self._part(unit)]

    def _move(self, unit: Unit, copy: bool) -> None:
        for slot in unit.slots:
            view = unit.data.array[slot.start : slot.stop].reshape(slot.shape)
            if copy:
                xp.copyto(view, slot.parameter.data)
            slot.parameter.data = view


class ZeroParameters(ZeroGradients):
    """Stage 3: a block's parameters are gathered just before use, the next block's meanwhile.

    What lies outside the blocks is gathered once for each step.
    """

    def begin(self, passes: int = 1) -> None:
        """See Reducer."""
        super().begin(passes)
        self.before_forward()

    def before_forward(self) -> None:
        """See Reducer."""
        for unit in self._units:
            if unit.block is None:
                self._ensure(unit)

    def before_backward(self, unit: Unit) -> None:
        """See ZeroGradients: the parameters are needed too, and next those of the block before."""
        self._ensure(unit)
        self._prefetch(self._blocks.index(unit) - 1)
        super().before_backward(unit)

    def publish(self) -> None:
        """See Reducer: what was gathered is old now."""
        for unit in self._units:
            unit.data.owner = None

    def store(self, name: str, value: Array) -> None:
        """See Reducer: this rank's part of it."""
        flat = value.reshape(-1)
        for slot in self.shard.slots:
            if slot.name == name:
                data, _ = self.shard.views(slot.start, slot.stop)
                copy_from_host(data, flat[slot.first : slot.first + slot.stop - slot.start])
        self._unit_of[id(self.parameters[name])].data.owner = None

    def _ensure(self, unit: Unit) -> None:
        """Have a unit's parameters here."""
        self._start_gather(unit)
        memory = unit.data
        if memory.pending is not None:
            started = time.perf_counter()
            memory.pending.wait()
            self._waited += time.perf_counter() - started
            memory.pending = None

    def _prefetch(self, number: int) -> None:
        if 0 <= number < len(self._blocks):
            self._start_gather(self._blocks[number])

    def _start_gather(self, unit: Unit) -> None:
        memory = unit.data
        if memory.owner is unit:
            return
        if memory.pending is not None:
            memory.pending.wait()  # what was fetched ahead is not wanted after all
        memory.owner = unit
        memory.pending = all_gather(
            self._group,
            self._data[unit.kept],
            out=memory.array[: unit.size].reshape(self._group.size, -1),
            async_op=True,
            label="parameters",
        )

    def _hook(self, unit: Unit) -> ForwardPreHook:
        def before_forward(block: Module, arguments: tuple[Any, ...]) -> None:
            self._ensure(unit)
            self._prefetch(self._blocks.index(unit) + 1)

        return before_forward

    def _make_data(self, size: int, copy: bool) -> None:
        """Only the shard, and memory for a few blocks."""
        self._data = empty(self._group, (size,), self._dtype)
        self._make_memories("data")
        slots: list[Slot] = []
        for unit in self._units:
            part = self._part(unit)
            within = slots_within(unit.slots, part.start, part.stop, unit.kept.start)
            self._data[unit.kept] = 0
            for slot in within if copy else ():
                source = slot.parameter.data.reshape(-1)[slot.first :]
                self._data[slot.start : slot.stop] = source[: slot.stop - slot.start]
            slots += within
            self._move(unit, copy=False)
            if unit.block is not None:
                unit.block.register_forward_pre_hook(self._hook(unit))
        self.shard = Shard(slots, [(self._data[u.kept], self._grad[u.kept]) for u in self._units])
