"""Modules: parameters and other modules under names, as in PyTorch."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ringlet.nn.autograd.conversion import array_of
from ringlet.nn.autograd.operations.casting import cast_to
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, Device
from ringlet.nn.module_call import Callee
from ringlet.nn.parameter import Parameter, construction, uninitialized
from ringlet.nn.random import generator, next_seed
from ringlet.nn.versions import write

__all__ = ["Module", "Parameter", "uninitialized"]


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not find in the state, and what it did not use."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module(Callee):
    """A part of a model. Parameters and modules assigned as attributes belong to it.

    Subclasses define `forward`, and `draw` for the initial values of their own parameters.
    """

    training: bool = True

    _buffers: Mapping[str, bool] = {}  # their names, and whether state dicts hold them

    summary: ClassVar[Callable[..., Any]]
    """Run the model once on the arguments; shapes, parameters and FLOPs of each module. Set by
    nn/summary.py."""

    def __init__(self) -> None:
        """Takes nothing; Python names what it is given."""

    # -- contents ----------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """What `self.name = param` does."""
        self._register(name, param, Parameter)

    def register_module(self, name: str, module: "Module | None") -> None:
        """What `self.name = module` does."""
        self._register(name, module, Module)

    add_module = register_module

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make a tensor that does not learn an attribute; if persistent, state dicts hold it."""
        self._register(name, tensor, Tensor)
        self._buffers = {**self._buffers, name: persistent}

    def _register(self, name: str, value: Any, kind: type) -> None:
        if not isinstance(value, kind | None):
            raise TypeError(f"{name} is a {type(value).__name__}; it must be a {kind.__name__}")
        if not name or "." in name or (hasattr(self, name) and name not in vars(self)):
            raise KeyError(f"nothing in {type(self).__name__} can be named {name!r}")
        setattr(self, name, value)

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules directly inside, with their names."""
        return ((name, x) for name, x in vars(self).items() if isinstance(x, Module))

    def children(self) -> Iterator["Module"]:
        """The modules directly inside."""
        return (module for _, module in self.named_children())

    def own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters of this module alone, with their names."""
        return ((name, x) for name, x in vars(self).items() if isinstance(x, Parameter))

    def own_buffers(self, persistent: bool = False) -> Iterator[tuple[str, Tensor]]:
        """The buffers of this module alone, with their names; or the persistent ones alone."""
        names = [name for name, kept in self._buffers.items() if kept or not persistent]
        return ((n, x) for n in names if isinstance(x := vars(self).get(n), Tensor))

    def named_modules(
        self, memo: set["Module"] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """This module and all inside it, with their paths, in the order of assignment; a shared
        one once, under its first path, unless `remove_duplicate` is false."""
        self._refuse_hidden()
        memo = set() if memo is None else memo
        if remove_duplicate and self in memo:
            return
        memo.add(self)
        yield prefix, self
        for name, child in self.named_children():
            path = f"{prefix}.{name}" if prefix else name
            yield from child.named_modules(memo, path, remove_duplicate)

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

    def _find(
        self, own: Callable[["Module"], Any], prefix: str, recurse: bool, once: bool
    ) -> Iterator[tuple[str, Any]]:
        """What `own` finds in this module and all inside it, with paths."""
        seen: set[int] = set()
        inside = self.named_modules(None, prefix, once) if recurse else [(prefix, self)]
        for path, module in inside:
            for name, found in own(module):
                if not (once and id(found) in seen):
                    seen.add(id(found))
                    yield f"{path}.{name}" if path else name, found

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their paths; a shared one once, under its first path."""
        return self._find(Module.own_parameters, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """All buffers with their paths; a shared one once, under its first path."""
        return self._find(Module.own_buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

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

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or make them zeros."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.fill(0)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the parameters learn."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def apply(self, fn: Callable[["Module"], object]) -> Self:
        """Call a function with each module inside this one, and then with this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Cast floating-point parameters and buffers, as `Tensor.to` does.

        Raises RuntimeError for a device other than the backend's, and if a parameter has a gradient
        or an optimizer already: cast first.
        """
        dtype = cast_to(*args, **kwargs)
        if dtype is None:
            return self
        if dtype.kind != "f":
            raise TypeError(f"parameters are floating-point, not {dtype}")
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            if dtype != tensor.dtype and tensor.dtype.kind == "f":
                if tensor.grad is not None:
                    raise RuntimeError(f"{name} has a gradient: cast the model before")
                tensor.data = tensor.data.astype(dtype)
        return self

    def float(self) -> Self:
        """In float32."""
        return self.to(np.float32)

    def double(self) -> Self:
        """In float64."""
        return self.to(np.float64)

    def half(self) -> Self:
        """In float16."""
        return self.to(np.float16)

    def cpu(self) -> Self:
        """`to("cpu")`."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Self:
        """`to("cuda")`."""
        return self.to(Device("cuda", device))

    def initialize(self, seed: int | None = None) -> None:
        """Draw all parameters again. Each depends on the seed and its path only; without a seed
        it is the next draw of the stream of `nn.random.manual_seed`, as in a new layer. Parameters
        of modules that define no `draw` keep their values."""
        if not construction.draws:
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

    get_submodule = submodule

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at this path; raises AttributeError if there is none."""
        return self._get(target, Parameter)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at this path; raises AttributeError if there is none."""
        return self._get(target, Tensor)

    def _get(self, target: str, kind: type) -> Any:
        path, _, name = target.rpartition(".")
        found = getattr(self.submodule(path), name)
        if not isinstance(found, kind):
            raise AttributeError(f"{target} is a {type(found).__name__}, no {kind.__name__}")
        return found

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """The initial values of this module's parameter `name`."""
        raise NotImplementedError(f"{type(self).__name__} has no initial values for {name}")

    def _state(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers; shared ones under each of their names."""

        def own(module: Module) -> list[tuple[str, Tensor]]:
            return [*module.own_parameters(), *module.own_buffers(persistent=True)]

        return dict(self._find(own, "", True, once=False))

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers by path; tensors of the same arrays (not copies).

        Tied parameters are there under each of their names, as in PyTorch.
        """
        return {name: tensor.detach() for name, tensor in self._state().items()}

    def load_state_dict(
        self, state: Mapping[str, Array | Tensor], strict: bool = True
    ) -> "IncompatibleKeys":
        """Copy the arrays (the host's or the backend's) or tensors into parameters and buffers.

        One name of a tied parameter is enough. Raises KeyError listing what is missing, unexpected
        or of the wrong shape before it copies anything; with `strict=False` only wrong shapes are
        errors, and the names of the others are returned.
        """
        own = self._state()
        given = {id(tensor) for name, tensor in own.items() if name in state}
        found = IncompatibleKeys(
            [name for name, tensor in own.items() if id(tensor) not in given],
            [name for name in state if name not in own],
        )
        wrong = [
            f"{name}: {tuple(np.shape(state[name]))} for {tensor.shape}"
            for name, tensor in own.items()
            if name in state and np.shape(state[name]) != tensor.shape
        ]
        faults = {"wrong shape": wrong}
        if strict:
            faults = {"missing": found.missing_keys, "unexpected": found.unexpected_keys, **faults}
        text = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items() if names)
        if text:
            raise KeyError(f"the state does not match {type(self).__name__}: {text}")
        for name, tensor in own.items():
            if name in state:
                write(tensor.data, array_of(state[name]))
        return found

    # -- printing -----------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The module's options, for its repr."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}" for name, child in self.named_children()]
        head = f"{type(self).__name__}({self.extra_repr()}"
        if not lines:
            return f"{head})"
        body = "\n".join(lines).replace("\n", "\n  ")
        return f"{head}\n  {body}\n)"
