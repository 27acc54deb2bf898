"""Modules: parameters and other modules under names, as in PyTorch."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ringlet.nn.autograd.backward_hooks import HookGradients, watch_backward
from ringlet.nn.autograd.conversion import array_of
from ringlet.nn.autograd.grad_mode import is_grad_enabled
from ringlet.nn.autograd.hooks import HookHandle
from ringlet.nn.autograd.recompute import checkpoint
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.random import generator, next_seed
from ringlet.nn.versions import write

__all__ = ["Module", "Parameter", "uninitialized"]

ForwardPreHook: TypeAlias = Callable[["Module", tuple[Any, ...]], Any]
ForwardHook: TypeAlias = Callable[["Module", tuple[Any, ...], Any], Any]
BackwardHook: TypeAlias = Callable[["Module", HookGradients, HookGradients], None]


class _Construction(threading.local):
    draws = True


_construction = _Construction()


@contextlib.contextmanager
def uninitialized() -> Iterator[None]:
    """Create modules inside the block without drawing initial values; the caller sets them."""
    before, _construction.draws = _construction.draws, False
    try:
        yield
    finally:
        _construction.draws = before


class Parameter(Tensor):
    """A tensor that a module learns. Its gradient may be a view into a flat buffer."""

    __slots__ = ()

    is_parameter = True

    def __init__(self, data: Array | Tensor) -> None:
        super().__init__(data, requires_grad=True)


class Module:
    """A part of a model. Parameters and modules assigned as attributes belong to it.

    Subclasses define `forward`, and `draw` for the initial values of their own parameters.
    """

    training: bool = True
    path: str = ""
    """The module's path in the model, as in transformer.h.0.attn; set by the model's first call."""

    recompute: bool = False
    """Discard what the forward pass computes, and compute it again in backward."""

    summary: ClassVar[Callable[..., Any]]
    """Run the model once on the arguments; shapes, parameters and FLOPs of each module. Set by
    nn/summary.py."""

    _named = False
    _forward_pre_hooks: tuple[ForwardPreHook, ...] = ()
    _forward_hooks: tuple[ForwardHook, ...] = ()
    _backward_hooks: tuple[BackwardHook, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's computation."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward` and the hooks. An error gets a note with the module's path."""
        if not self._named:
            self.assign_paths()
        for before in self._forward_pre_hooks:
            changed = before(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        try:
            if self._backward_hooks:
                run = partial(self._run, **kwargs)
                result = watch_backward(run, args, self._call_backward_hooks)
            else:
                result = self._run(*args, **kwargs)
        except (ValueError, IndexError, TypeError) as error:
            if not getattr(error, "__notes__", None):
                error.add_note(f"in {self.path or 'the model'} ({type(self).__name__})")
            raise
        for after in self._forward_hooks:
            changed = after(self, args, result)
            result = result if changed is None else changed
        return result

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.recompute and is_grad_enabled():
            return checkpoint(self, *args, forward=partial(self.forward, **kwargs))
        return self.forward(*args, **kwargs)

    def _call_backward_hooks(self, grad_inputs: HookGradients, grad_outputs: HookGradients) -> None:
        for hook in self._backward_hooks:
            hook(self, grad_inputs, grad_outputs)

    def register_forward_pre_hook(self, hook: ForwardPreHook) -> HookHandle:
        """Call `hook(module, arguments)` before each forward pass of this module; a result other
        than None replaces the arguments."""
        return HookHandle(self, "_forward_pre_hooks", hook)

    def register_forward_hook(self, hook: ForwardHook) -> HookHandle:
        """Call `hook(module, arguments, result)` after each forward pass; a result other than None
        replaces the module's."""
        return HookHandle(self, "_forward_hooks", hook)

    def register_full_backward_hook(self, hook: BackwardHook) -> HookHandle:
        """Call `hook(module, grad_inputs, grad_outputs)` in backward, once all inputs that require
        a gradient have theirs (arrays, or None). It must not change them."""
        return HookHandle(self, "_backward_hooks", hook)

    @property
    def is_watched(self) -> bool:
        """Whether a call does more than `forward`: hooks, or recomputation."""
        hooks = self._forward_pre_hooks or self._forward_hooks or self._backward_hooks
        return bool(hooks) or self.recompute

    # -- contents ----------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules directly inside, with their names."""
        return ((name, x) for name, x in vars(self).items() if isinstance(x, Module))

    def children(self) -> Iterator["Module"]:
        """The modules directly inside."""
        return (module for _, module in self.named_children())

    def own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters of this module alone, with their names."""
        return ((name, x) for name, x in vars(self).items() if isinstance(x, Parameter))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This module and all inside it, with their paths, in the order of assignment."""
        self._refuse_hidden()
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def _refuse_hidden(self) -> None:
        """Raise TypeError if modules or parameters are in a list or dict, where none finds them."""
        for name, value in vars(self).items():
            if isinstance(value, list | tuple | set | dict):
                held = value.values() if isinstance(value, dict) else value
                if any(isinstance(each, Module | Parameter) for each in held):
                    raise TypeError(
                        f"{type(self).__name__}.{name} is a {type(value).__name__} of modules or "
                        "parameters, which would not be trained or saved: use ModuleList, "
                        "ModuleDict or an attribute for each"
                    )

    def modules(self) -> Iterator["Module"]:
        """This module and all inside it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their paths; a shared one once, under its first path."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, parameter in module.own_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{name}" if path else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def num_parameters(self) -> int:
        """The number of elements of all parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def assign_paths(self) -> None:
        """Set the paths of this module and all inside it; this one is the root."""
        for path, module in self.named_modules():
            module.path, module._named = path, True

    # -- states -------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "Module":
        """Set training mode (dropout is active) for this module and all inside it."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        """Set evaluation mode."""
        return self.train(False)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside the block; afterwards each module is in its own mode again."""
        before = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, mode in before:
                module.training = mode

    def zero_grad(self) -> None:
        """Reset all gradients."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def initialize(self, seed: int | None = None) -> None:
        """Draw all parameters again. Each depends on the seed and its path only; without a seed
        it is the next draw of the stream of `nn.random.manual_seed`, as in a new layer. Parameters
        of modules that define no `draw` keep their values."""
        if not _construction.draws:
            return
        seed = next_seed() if seed is None else seed
        by_layer = type(self).initial_value is Module.initial_value
        for name, parameter in self.named_parameters():
            owner = type(self.submodule(name.rpartition(".")[0]))
            if not by_layer or owner.draw is not Module.draw:
                write(parameter.data, self.initial_value(name, parameter.shape, seed))

    def initial_value(self, name: str, shape: tuple[int, ...], seed: int) -> Array:
        """The initial value of the parameter at this path, of its whole shape; on the host."""
        path, _, own = name.rpartition(".")
        return self.submodule(path).draw(own, shape, generator(seed, name))

    def submodule(self, path: str) -> "Module":
        """The module at this path; raises AttributeError if there is none."""
        module = self
        for part in path.split(".") if path else ():
            module = getattr(module, part)
        return module

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """The initial values of this module's parameter `name`."""
        raise NotImplementedError(f"{type(self).__name__} has no initial values for {name}")

    def state_dict(self) -> dict[str, Array]:
        """All parameters' arrays (not copies) by path."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array | Tensor], strict: bool = True) -> None:
        """Copy the arrays (the host's or the backend's) or tensors into the parameters.

        Raises KeyError listing what is missing, unexpected or of the wrong shape before it copies
        anything; with `strict=False` only wrong shapes are errors.
        """
        own = dict(self.named_parameters())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        wrong = [
            f"{name}: {tuple(np.shape(state[name]))} for {own[name].shape}"
            for name in own
            if name in state and np.shape(state[name]) != own[name].shape
        ]
        faults = {"wrong shape": wrong}
        if strict:
            faults = {"missing": missing, "unexpected": unexpected, **faults}
        text = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items() if names)
        if text:
            raise KeyError(f"the state does not match {type(self).__name__}: {text}")
        for name, parameter in own.items():
            if name in state:
                write(parameter.data, array_of(state[name]))

    # -- printing -----------------------------------------------------------------------------

    def describe(self) -> str:
        """The module's options, for its repr."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}" for name, child in self.named_children()]
        head = f"{type(self).__name__}({self.describe()}"
        if not lines:
            return f"{head})"
        body = "\n".join(lines).replace("\n", "\n  ")
        return f"{head}\n  {body}\n)"
