"""Modules and parameters in lists and dicts."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.module import Module, Parameter

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


class _Container(Module):
    """Modules, or parameters, as attributes in a row; it has no `forward`."""

    kind: type[Any] = Module

    def _held(self) -> dict[str, Any]:
        return {name: each for name, each in vars(self).items() if isinstance(each, self.kind)}

    def _hold(self, values: Iterable[tuple[str, Any]]) -> None:
        """Make them attributes; raises TypeError or ValueError naming what cannot be one."""
        for name, value in values:
            if self.kind is Parameter and isinstance(value, Tensor):
                value = value if isinstance(value, Parameter) else Parameter(value)
            if not isinstance(value, self.kind):
                what, kind = f"{self.kind.__name__.lower()}s", type(value).__name__
                raise TypeError(f"{type(self).__name__} holds {what}; {name!r} is of type {kind}")
            if not name or "." in name or hasattr(type(self), name):
                what = f"a {self.kind.__name__.lower()} in {type(self).__name__}"
                raise ValueError(f"{what} cannot be named {name!r}")
            setattr(self, name, value)

    def _name(self, key: Any) -> str:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._held())

    def __setitem__(self, key: Any, value: Any) -> None:
        self._hold([(self._name(key), value)])


class _Dict(_Container):
    """Under the names that they are given by, in a dict or one by one."""

    def __init__(self, held: Any = (), /, **named: Any) -> None:
        self.update(held)
        self.update(named)

    def update(self, held: Any) -> None:
        """Add what a mapping, or pairs of names and values, hold."""
        self._hold(held.items() if isinstance(held, Mapping | _Dict) else held)

    def _name(self, key: str) -> str:
        return key

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no module {name!r} in {list(vars(self))}")

    def __getitem__(self, key: str) -> Any:
        return self._held()[key]

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def pop(self, key: str) -> Any:
        """Take one out."""
        found = self[key]
        delattr(self, key)
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._held()

    def __iter__(self) -> Iterator[str]:
        return iter(self._held())

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._held().keys()

    def values(self) -> Iterable[Any]:
        """What they are the names of."""
        return self._held().values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Pairs of both."""
        return self._held().items()


class ModuleDict(_Dict):
    """Modules under the names that they are given by, in a dict or one by one."""


class ParameterDict(_Dict):
    """Parameters (tensors become such) under the names that they are given by."""

    kind = Parameter


class _List(_Container):
    """In a row, under their indices."""

    def __init__(self, held: Iterable[Any] = ()) -> None:
        self._hold(_numbered(held))

    def _name(self, key: int) -> str:
        return list(self._held())[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._held().values())

    def __getitem__(self, index: int | slice) -> Any:
        """The one at an index; of a slice, a container of the same class."""
        part = list(self)[index]
        return type(self)(part) if isinstance(index, slice) else part

    def __delitem__(self, index: int | slice) -> None:
        left = list(self)
        del left[index]
        self._replace(left)

    def _replace(self, held: Iterable[Any]) -> None:
        for name in self._held():
            delattr(self, name)
        self._hold(_numbered(held))

    def append(self, value: Any) -> Any:
        """Add one at the end; returns the container."""
        return self.extend([value])

    def extend(self, values: Iterable[Any]) -> Any:
        """Add several at the end; returns the container."""
        self._hold(_numbered(values, len(self)))
        return self

    __iadd__ = extend

    def insert(self, index: int, value: Any) -> None:
        """Add one before an index."""
        held = list(self)
        held.insert(index, value)
        self._replace(held)


class ModuleList(_List):
    """Modules in a row, under their indices. Iterate over it; it has no `forward`."""


class ParameterList(_List):
    """Parameters (tensors become such) in a row, under their indices."""

    kind = Parameter


class Sequential(ModuleList):
    """Modules run one after the other, each on the result of the one before.

    They have their indices for names, or those of the one dict that is given.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        only = modules[0] if len(modules) == 1 else None
        self._hold(only.items() if isinstance(only, Mapping) else _numbered(modules))

    def __getitem__(self, index: int | slice) -> Any:
        """The module at an index; of a slice, a Sequential of those modules."""
        if isinstance(index, slice):
            return Sequential(dict(list(self.named_children())[index]))
        return super().__getitem__(index)

    def forward(self, x: Any) -> Any:
        """The last module's result."""
        for module in self:
            x = module(x)
        return x


def _numbered(values: Iterable[Any], first: int = 0) -> Iterator[tuple[str, Any]]:
    return ((str(number), value) for number, value in enumerate(values, first))
