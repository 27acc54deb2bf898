"""torch.optim's base class: groups of parameters with their own options, and their state."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ringlet.nn.autograd.tensor import Tensor

__all__ = ["Optimizer"]


class Optimizer:
    """The base of optimizers with `param_groups`, as torch.optim.Optimizer.

    `params` are tensors, (name, tensor) pairs, or dicts with "params" and the options in which a
    group differs from `defaults`. Subclasses define `step`, and keep what they like in
    `state[parameter]`. Raises ValueError or TypeError, as PyTorch does, for no parameters, one that
    comes twice, and what is no leaf.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor | str | dict) or not isinstance(params, Iterable):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                f"dicts, but got {type(params).__name__}"
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters: a dict of "params" and options."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, not {type(param_group).__name__}")
        given = param_group["params"]
        if isinstance(given, set):
            raise TypeError("the order of a set changes between runs: give parameters as a list")
        entries = [given] if isinstance(given, Tensor) else list(given)
        names = [entry[0] for entry in entries if isinstance(entry, tuple)]
        parameters = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
        if names and len(names) != len(parameters):
            raise ValueError(
                "all optimizer params should be with/without names. Some param names are missing"
            )
        for parameter in parameters:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    f"optimizer can only optimize Tensors, but got a {type(parameter).__name__}"
                )
            if not parameter.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        if len(set(parameters)) != len(parameters):
            raise ValueError("a parameter group with duplicate parameters")
        for group in self.param_groups:
            if ("param_names" in group) != bool(names):
                raise ValueError(
                    "all optimizer param groups should be with/without names. cannot add param "
                    f"group with{'' if names else 'out'} names to the optimizer"
                )
            if not set(parameters).isdisjoint(group["params"]):
                raise ValueError("some parameters appear in more than one parameter group")
        own = {"param_names": names} if names else {}
        group = {**self.defaults, **param_group, "params": parameters, **own}
        self.check(group)
        self.param_groups.append(group)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError for options that cannot be."""

    def _parameters(self) -> Iterable[Any]:
        """Those of all groups, in order."""
        return itertools.chain.from_iterable(group["params"] for group in self.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or make them zeros: a parameter without one is not stepped."""
        for parameter in self._parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.has_grad:
                parameter.grad.fill(0)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns the loss that `closure` computes, if given."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: state}, "param_groups": groups with numbers for parameters}."""
        numbers = itertools.count()
        groups = [
            {**group, "params": [next(numbers) for _ in group["params"]]}
            for group in self.param_groups
        ]
        numbered = enumerate(self._parameters())
        state = {n: dict(self.state[p]) for n, p in numbered if p in self.state}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved state, with its options; parameters are told by their order."""
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(
            len(old["params"]) != len(new["params"])
            for old, new in zip(self.param_groups, saved, strict=True)
        ):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                "optimizer's group"
            )
        state = {}
        for group, new in zip(self.param_groups, saved, strict=True):
            pairs = zip(new["params"], group["params"], strict=True)
            state.update({p: state_dict["state"].get(number) for number, p in pairs})
            group.update({name: value for name, value in new.items() if name != "params"})
        self.load_state({p: each for p, each in state.items() if each})

    def load_state(self, state: Mapping[Tensor, Mapping[str, Any]]) -> None:
        """Take over the parameters' states."""
        self.state = defaultdict(dict, {p: dict(each) for p, each in state.items()})

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])
