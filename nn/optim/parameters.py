"""Optimizers of parameters where they are: what an optimizer of flat parameters does, under
torch.optim's face.

`AdamW(flat, 1e-3)` is an AdamW, and `AdamW(model.parameters(), lr=1e-3)` one of these: each
parameter is a piece of its own, and their state is flat. So parameters may be replaced, tied and
used by several optimizers, as in PyTorch.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ringlet.nn.autograd.conversion import array_of
from ringlet.nn.autograd.grad_mode import enable_grad
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, copy_from_host, xp
from ringlet.nn.flat import Flat, Slot
from ringlet.nn.optim.param_groups import Optimizer

IMPLEMENTATION = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
"""Options of PyTorch's that say how it computes, not what. Only `differentiable` is refused."""


class PyTorch(NamedTuple):
    """What PyTorch's class of a name is like."""

    options: Mapping[str, Any]
    """In its order, with the defaults."""

    fields: Mapping[str, str] = MappingProxyType({})
    """What options are called here, where they have another name."""

    counts: bool = True
    """Whether the state has the number of steps."""

    fixed: Mapping[str, Any] = MappingProxyType({})
    """Fields that PyTorch's class does not have."""


class Scattered(Flat):
    """Parameters where they are, each a piece of its own. `maximize` negates the gradients."""

    maximize = False

    def __init__(self, parameters: Iterable[Any]) -> None:
        self.slots, stop = [], 0
        for number, parameter in enumerate(parameters):
            start, stop = stop, stop + parameter.numel()
            self.slots.append(Slot(str(number), parameter, start, stop, parameter.shape))
        self.size, self.dtype = stop, self.slots[0].parameter.dtype
        self.segments = [(slot.start, slot.stop) for slot in self.slots]
        self._starts = [slot.start for slot in self.slots]

    def settle(self) -> None:
        """Parameters without a gradient are not stepped."""

    def views(self, start: int, stop: int) -> tuple[Array, Array]:
        slot = self.slots[bisect.bisect_right(self._starts, start) - 1]
        parameter: Any = slot.parameter
        place = slice(start - slot.start, stop - slot.start)
        if not parameter.data.flags.c_contiguous:
            parameter.data = xp.ascontiguousarray(parameter.data)
        grad = parameter.grad.reshape(-1)[place]
        return parameter.data.reshape(-1)[place], -grad if self.maximize else grad


class Engine:
    """A group's parameters of one dtype, and the optimizer of flat parameters that updates them."""

    def __init__(self, kind: Any, parameters: list[Tensor]) -> None:
        self._kind, self._like = kind, kind.PYTORCH
        self._flat = Scattered(parameters)
        self.slots: dict[Tensor, Slot] = {slot.parameter: slot for slot in self._flat.slots}
        self._steps = dict.fromkeys(parameters, 0)
        self._present: Any = None
        self.optimizer: Any = None

    def configure(self, group: Mapping[str, Any]) -> None:
        """Take the group's options, which may have changed."""
        names = self._like.options.keys() - {"lr"}
        options = {self._like.fields.get(name, name): _number(group[name]) for name in names}
        if (options, group["maximize"]) != self._present:
            self._present = options, group["maximize"]
            self._flat.maximize = group["maximize"]
            new = self._kind(
                self._flat, learning_rate=0.0, decay=everything, **options, **self._like.fixed
            )
            if self.optimizer is not None:
                kept = self.optimizer.state
                new.state.update((name, kept[name]) for name in new.state.keys() & kept.keys())
            self.optimizer = new
        self.optimizer.learning_rate = _number(group["lr"])

    def step(self) -> list[Tensor]:
        """Step the parameters that have a gradient, and return them: neighbours at once that have
        taken as many steps."""
        taken = self._steps
        ready = [parameter for parameter in taken if parameter.has_grad]
        for steps, together in itertools.groupby(sorted(ready, key=taken.__getitem__), taken.get):
            self.optimizer.steps = steps
            self.optimizer.prepare()
            for start, stop in _stretches(self.slots[p] for p in together):
                self.optimizer.update_range(start, stop)
        taken.update((parameter, taken[parameter] + 1) for parameter in ready)
        return ready

    def state(self, parameter: Tensor) -> dict[str, Any]:
        """A parameter's state as PyTorch has it: views of what is kept."""
        counted = {"step": self._steps[parameter]} if self._like.counts else {}
        return {**counted, **self.optimizer.parts(self.slots[parameter])}

    def load(self, parameter: Tensor, state: Mapping[str, Any]) -> None:
        """Take over a parameter's state."""
        self._steps[parameter] = int(state.get("step", 1))
        parts = self.optimizer.parts(self.slots[parameter])
        given = {name: value for name, value in state.items() if name != "step"}
        if set(given) != set(parts):
            raise KeyError(
                f"{self._kind.__name__} keeps {sorted(parts)} of a parameter, the saved state has "
                f"{sorted(given)}"
            )
        for name, value in given.items():
            copy_from_host(parts[name], np.asarray(array_of(value)).reshape(parts[name].shape))


def _stretches(slots: Iterable[Slot]) -> list[list[int]]:
    """Neighbouring slots joined: their starts and stops."""
    found: list[list[int]] = []
    for slot in slots:
        if found and found[-1][1] == slot.start:
            found[-1][1] = slot.stop
        else:
            found.append([slot.start, slot.stop])
    return found


def everything(name: str, parameter: object) -> bool:
    """Decay all parameters, as PyTorch's optimizers do without groups."""
    return True


def _number(option: Any) -> Any:
    """Tensors of one element as numbers, also in tuples."""
    if isinstance(option, tuple | list):
        return tuple(map(_number, option))
    return float(option) if isinstance(option, Tensor) else option


class Face(Optimizer):
    """An optimizer of flat parameters (`KIND`), for parameters where they are."""

    KIND: Any

    def __init__(self, params: Any, *args: Any, maximize: bool = False, **options: Any) -> None:
        name, known = type(self).__name__, self.KIND.PYTORCH.options
        if len(args) > len(known):
            raise TypeError(f"{name}() takes parameters and {len(known)} options by position")
        given = {**dict(zip(known, args, strict=False)), **options}
        for option in given:
            if option not in known and option not in IMPLEMENTATION:
                raise TypeError(
                    f"{name}() got an unexpected keyword argument {option!r}: for parameters it "
                    f"takes {', '.join(known)} and maximize"
                )
        self._engines: list[list[Engine]] = []
        super().__init__(params, {**known, **IMPLEMENTATION, "maximize": maximize, **given})

    def check(self, options: Mapping[str, Any]) -> None:
        check_options(options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._engines.append(self._made(self.param_groups[-1]))
        self._configure()

    def _made(self, group: Mapping[str, Any]) -> list[Engine]:
        by_dtype = defaultdict(list)
        for parameter in group["params"]:
            if parameter.dtype.kind != "f":
                raise TypeError(
                    f"{type(self).__name__} does not support parameters of {parameter.dtype}"
                )
            if parameter.numel():
                by_dtype[parameter.dtype].append(parameter)
        return [Engine(self.KIND, each) for each in by_dtype.values()]

    def _configure(self) -> list[Engine]:
        for group, engines in zip(self.param_groups, self._engines, strict=True):
            for engine in engines:
                engine.configure(group)
        return [engine for engines in self._engines for engine in engines]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step along the gradients; parameters without one stay as they are. Returns the
        loss that `closure` computes, if given."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for engine in self._configure():
            for parameter in engine.step():
                if state := engine.state(parameter):
                    self.state[parameter] = state
        return loss

    def load_state(self, state: Mapping[Tensor, Mapping[str, Any]]) -> None:
        self.state.clear()
        self._engines = [self._made(group) for group in self.param_groups]
        for engine in self._configure():
            for parameter in engine.slots.keys() & state.keys():
                engine.load(parameter, state[parameter])
                self.state[parameter] = engine.state(parameter)


_FACES: dict[Any, type[Face]] = {}


def face(kind: Any) -> type[Face]:
    """torch.optim's face of an optimizer of flat parameters."""
    if kind not in _FACES:
        _FACES[kind] = type(kind.__name__, (Face,), {"KIND": kind, "__doc__": kind.__doc__})
    return _FACES[kind]


LEAST = {"weight_decay", "eps", "momentum", "alpha", "lr_decay", "initial_accumulator_value"}
"""Options that may not be negative."""


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that cannot be, with PyTorch's words."""
    for name, value in options.items():
        for number in value if isinstance(value, tuple | list) and name != "params" else [value]:
            if isinstance(number, Tensor) and number.numel() != 1:
                raise ValueError(f"Tensor {name} must be 1-element")
            if isinstance(number, Tensor) and options["foreach"] and not options["capturable"]:
                raise ValueError(
                    f"{name} as a Tensor is not supported for capturable=False and foreach=True"
                )
            if name in LEAST and number is not None and not number >= 0:
                raise ValueError(f"Invalid {name} value: {number}")
    if not options["lr"] >= 0:
        raise ValueError(f"Invalid learning rate: {options['lr']}")
    betas = options.get("betas", ())
    for index, beta in enumerate(betas):
        if not 0 <= beta < 1:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if len({isinstance(beta, Tensor) for beta in betas}) > 1:
        raise ValueError("betas must be either both floats or both Tensors")
    if options.get("beta2_decay", 0) > 0:
        raise ValueError(f"beta2_decay should be <= 0 but is: {options['beta2_decay']}")
    if options.get("d", 1) < 1:
        raise ValueError(f"Clipping threshold d should be >= 1 but is: {options['d']}")
    if options["differentiable"]:
        raise ValueError("steps are not differentiable here")
