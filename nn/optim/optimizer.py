"""What optimizers share: state as flat arrays, and updates in blocks that fit the cache."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple, TypeAlias

from ringlet.nn.backend import Array, aligned_empty, block_size, copy_from_host, xp
from ringlet.nn.caches import elementwise_block
from ringlet.nn.flat import Flat, Slot
from ringlet.nn.module import Parameter
from ringlet.nn.optim.parameters import PyTorch, everything, face
from ringlet.nn.versions import changed

__all__ = ["FlatOptimizer", "Group", "everything", "matrices"]

BLOCK = elementwise_block()
"""Elements for each block: its parameters, gradients, state and scratch memory fit the caches."""

NAMES = {"momentum": "momentum_buffer"}
"""What PyTorch calls a state that has another name here."""

Decay: TypeAlias = Callable[[str, Parameter], bool]


def matrices(name: str, parameter: Parameter) -> bool:
    """Decay what multiplies (weights, embeddings), not what shifts or scales (biases, norms)."""
    return parameter.ndim >= 2 and not name.endswith("bias")  # experts' biases have two axes


@dataclass(frozen=True)
class Group:
    """Parameters whose names fit one of the patterns, and their own options.

    `patterns` are separated by commas, as in "*.bias,transformer.wte.*"; the first group that fits
    counts, and an optimizer refuses patterns that fit nothing. `scale` multiplies the learning
    rate; `weight_decay` replaces the optimizer's, whatever its `decay` says.
    """

    patterns: str
    scale: float = 1.0
    weight_decay: float | None = None

    def fits(self, name: str) -> bool:
        """Whether the parameter of this name belongs to it."""
        return any(fnmatchcase(name, pattern.strip()) for pattern in self.patterns.split(","))

    def own(self, names: Sequence[str]) -> list[str]:
        """Those of the names that belong to it."""
        return [name for name in names if self.fits(name)]


def check_groups(groups: Sequence[Group], names: Sequence[str]) -> None:
    """Raise ValueError for a pattern that fits none of these parameters, and for a group that is
    left with none by those before it."""
    for number, group in enumerate(groups):
        for pattern in group.patterns.split(","):
            if not Group(pattern).own(names):
                some = ", ".join(names[:3])
                raise ValueError(
                    f"no parameter fits {pattern.strip()!r} of the optimizer's groups; there are "
                    f"{some}, ..."
                )
        own = group.own(names)
        if all(any(earlier.fits(name) for earlier in groups[:number]) for name in own):
            raise ValueError(
                f"all that fits {group.patterns!r} belongs to groups before it: the first counts"
            )


class Rates(NamedTuple):
    """A parameter's factor of the learning rate, and its decay."""

    scale: float
    decay: float


class Update:
    """A block of parameters to be updated in place, and what the update needs.

    `grad` must not be changed. `state` are the arrays of `FlatOptimizer.STATE`; `scratch` are two
    arrays of the block's size to compute in. One object serves all blocks of a step.
    """

    __slots__ = ("data", "decay", "grad", "rate", "scratch", "state")

    data: Array
    grad: Array
    rate: float
    decay: float
    state: list[Array]
    scratch: Array

    def decay_data(self) -> None:
        """Decoupled weight decay: shrink the parameters."""
        if self.decay:
            data = self.data
            data *= 1 - self.rate * self.decay

    def decayed_grad(self, out: Array) -> Array:
        """The gradient plus decay * data, in `out`; the gradient itself where nothing decays."""
        if not self.decay:
            return self.grad
        xp.multiply(self.data, self.decay, out=out)
        out += self.grad
        return out


class FlatOptimizer:
    """Updates flat parameters (FlatParameters, or a shard of them) from their gradients.

    `learning_rate` may be set before each `step()`. State is one flat array for each name in
    `STATE`, and the number of steps taken. `decay(name, parameter)` says which parameters decay
    by `weight_decay`; `groups` override it by name, and scale the learning rate. Raises ValueError
    for a group that fits no parameter.

    Subclasses are dataclasses: they have these fields, and their own, in the order of PyTorch.
    """

    flat: Flat
    learning_rate: float
    weight_decay: float
    decay: Decay
    groups: Sequence[Group]
    STATE: tuple[str, ...] = ()
    PYTORCH: ClassVar[PyTorch]

    def __new__(cls, flat: Any = None, *args: Any, params: Any = None, **options: Any) -> Any:
        """With parameters, or dicts of them, in place of flat ones: see parameters.Face."""
        if params is None and (flat is None or isinstance(flat, Flat)):
            return super().__new__(cls)
        return face(cls)(flat if params is None else params, *args, **options)

    def __post_init__(self) -> None:
        if self.learning_rate < 0 or self.weight_decay < 0:
            raise ValueError(
                f"learning rate is {self.learning_rate} and weight decay {self.weight_decay}; "
                "neither may be negative"
            )
        flat = self.flat
        if flat.whole:
            check_groups(self.groups, [slot.name for slot in flat.slots])
        self.steps = 0
        self.state: dict[str, Array] = {
            name: aligned_empty((flat.size,), flat.dtype) for name in self.STATE
        }
        for array in self.state.values():
            array.fill(0)
        self._block = min(block_size(BLOCK), max(1, flat.size))
        self._scratch = aligned_empty((2, self._block), flat.dtype)
        self._runs = list(_runs(flat, {slot.start: self.rates(slot) for slot in self.in_blocks()}))

    def in_blocks(self) -> Sequence[Slot]:
        """The parameters that are updated element by element, in blocks: here all."""
        return self.flat.slots

    def rates(self, slot: Slot) -> Rates:
        """A parameter's rates."""
        decayed = self.weight_decay if self.decay(slot.name, slot.parameter) else 0.0
        for group in self.groups:
            if group.fits(slot.name):
                own = decayed if group.weight_decay is None else group.weight_decay
                return Rates(group.scale, own)
        return Rates(1.0, decayed)

    def step(self) -> None:
        """Take one step along the gradients."""
        self.prepare()
        self.update_range(0, self.flat.size)

    def prepare(self) -> None:
        """Begin a step that `update_range` carries out, range by range."""
        self.steps += 1
        self.flat.settle()
        self.begin()

    def update_range(self, begin: int, end: int) -> None:
        """Carry out the step for the parameters from `begin` to `end`."""
        block = Update()
        for start, stop, rates in self._runs:
            block.rate, block.decay = self.learning_rate * rates.scale, rates.decay
            for first in range(max(start, begin), min(stop, end), self._block):
                last = min(first + self._block, stop, end)
                block.data, block.grad = self.flat.views(first, last)
                block.state = [array[first:last] for array in self.state.values()]
                block.scratch = self._scratch[:, : last - first]
                self.update(block)
        for start, stop in self.flat.segments:
            if max(start, begin) < min(stop, end):
                changed(self.flat.views(max(start, begin), min(stop, end))[0])

    def begin(self) -> None:
        """Compute what all blocks of this step share."""

    def update(self, block: Update) -> None:
        """Update a block of parameters in place."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"steps": number, and the flat arrays (not copies) by name}."""
        return {"steps": self.steps, **self.state}

    def parts(self, slot: Slot) -> dict[str, Array]:
        """A parameter's state under PyTorch's names: views, in its shape."""
        return {
            NAMES.get(name, name): array[slot.start : slot.stop].reshape(slot.shape)
            for name, array in self.state.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; raises KeyError if it is another optimizer's."""
        if set(state) != {"steps", *self.STATE}:
            raise KeyError(
                f"{type(self).__name__} keeps {['steps', *self.STATE]}, the saved state has "
                f"{sorted(state)}"
            )
        self.steps = int(state["steps"])
        for name in self.STATE:
            copy_from_host(self.state[name], state[name])


def _runs(flat: Flat, rates: Mapping[int, Rates]) -> Iterator[tuple[int, int, Rates]]:
    """Contiguous stretches whose parameters have the same rates, given by their starts; a
    parameter without rates is left out. Padding belongs to the parameter before it."""
    ends = [stop for _, stop in flat.segments]
    start, present = 0, Rates(1.0, 0.0)
    left_out = False
    for slot in flat.slots:
        own = rates.get(slot.start)
        while slot.start >= ends[0]:
            if not left_out and start < ends[0]:
                yield start, ends[0], present
            start = ends.pop(0)
        if (own is None, own or present) != (left_out, present) and slot.start > start:
            if not left_out:
                yield start, slot.start, present
            start = slot.start
        left_out, present = own is None, own or present
    for end in ends:
        if not left_out and start < end:
            yield start, end, present
        start = end
