"""Fine-tuning: freezing parameters, and LoRA.

Hu et al., "LoRA: low-rank adaptation of large language models" (2021).
"""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.adapter_config import AdapterConfig
from ringlet.nn.autograd.conversion import in_dtype
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import xp
from ringlet.nn.files import short
from ringlet.nn.layers.basic import Dropout, Linear
from ringlet.nn.module import Module, uninitialized
from ringlet.nn.random import generator
from ringlet.nn.safetensors import SafetensorsFile, write_safetensors
from ringlet.nn.versions import changed, write

__all__ = [
    "LoRALinear", "add_lora", "freeze", "load_lora", "merge_lora", "save_lora", "unfreeze",
]  # fmt: skip

T = TypeVar("T")

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_PREFIX = "base_model.model."
"""The peft library's prefix of modules' names."""


def freeze(model: Module, *patterns: str) -> list[str]:
    """Stop the parameters that match the patterns from learning; returns their names.

    Patterns are as for file names: "transformer.h.*", or "*" for all. Frozen parameters get no
    gradient, and flat buffers created afterwards leave them out. Raises ValueError for a pattern
    that matches no parameter.
    """
    return _set(model, patterns, learn=False)


def unfreeze(model: Module, *patterns: str) -> list[str]:
    """Let the parameters that match the patterns learn again; see `freeze`."""
    return _set(model, patterns, learn=True)


def _set(model: Module, patterns: tuple[str, ...], learn: bool) -> list[str]:
    matching = _matching(dict(model.named_parameters()), patterns, "parameter")
    for parameter in matching.values():
        parameter.requires_grad = learn
    return list(matching)


def _matching(named: dict[str, T], patterns: tuple[str, ...], what: str) -> dict[str, T]:
    """Those whose names match a pattern; raises ValueError for a pattern that matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ValueError(f"no {what} matches {pattern!r}; the first one is {next(iter(named))}")
    return {n: v for n, v in named.items() if any(fnmatchcase(n, each) for each in patterns)}


class LoRALinear(Module):
    """A Linear whose matrix is frozen, plus a learned product of two low-rank matrices.

    x @ weight.T + bias + (x @ A.T) @ B.T * alpha / rank: A is (rank, in), B (out, rank). B starts
    from zeros, so at first nothing changes. Weight and bias are shared with the Linear.
    """

    def __init__(self, linear: Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias, self.rank, self.alpha = linear.weight, linear.bias, rank, alpha
        with uninitialized():
            self.lora_A = Linear(self.in_features, rank, bias=False)
            self.lora_B = Linear(rank, self.out_features, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        change = self.lora_B(self.lora_A(self.dropout(x)))
        return F.linear(x, self.weight, self.bias) + change * (self.alpha / self.rank)

    def merged(self) -> Linear:
        """The Linear with the same parameters, after adding to them what was learned."""
        with uninitialized():
            linear = Linear(self.in_features, self.out_features, bias=False)
        change = xp.matmul(self.lora_B.weight.data, self.lora_A.weight.data)
        self.weight.data += change * in_dtype(self.alpha / self.rank, change)
        changed(self.weight.data)
        linear.weight, linear.bias = self.weight, self.bias
        return linear

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, alpha={self.alpha}"


def add_lora(
    model: Module,
    *patterns: str,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Add a learned low-rank change to the Linear layers that match, and freeze all else but the
    changes that were added before.

    Returns their paths. A's initial values depend on (seed, path). The new layers are in the mode
    (training or evaluation) of those that they replace. Raises ValueError for a pattern that
    matches no Linear, or one whose matrix another layer shares.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; it must be at least 1")
    chosen = _matching(_linears(model), patterns, "Linear")
    _adapt(model, dict.fromkeys(chosen, (rank, alpha)), dropout, seed)
    return list(chosen)


def _linears(model: Module) -> dict[str, Linear]:
    """The Linear layers by path, without those that belong to LoRA layers."""
    inside = tuple(f"{path}." for path, _ in _adapted(model))
    return {
        path: module
        for path, module in model.named_modules()
        if type(module) is Linear and not path.startswith(inside)
    }


def _adapt(
    model: Module, wanted: Mapping[str, tuple[int, float]], dropout: float, seed: int = 0
) -> None:
    """Make LoRA layers, of a rank and an alpha, of the Linear layers at these paths."""
    own = {name for name, _ in model.named_parameters()}
    shared = [path for path in wanted if f"{path}.weight" not in own]
    if shared:
        raise ValueError(f"the matrix of {', '.join(shared)} is shared with another layer")
    linears = _linears(model)
    before = [part.weight for _, each in _adapted(model) for part in (each.lora_A, each.lora_B)]
    learned = [weight for weight in before if weight.requires_grad]
    freeze(model, "*")
    for weight in learned:
        weight.requires_grad = True
    for path, (rank, alpha) in wanted.items():
        adapted = LoRALinear(linears[path], rank, alpha, dropout)
        draws = generator(seed, f"{path}.lora_A.weight").random(adapted.lora_A.weight.shape)
        values = (2 * draws - 1) / np.sqrt(adapted.in_features)
        write(adapted.lora_A.weight.data, values)
        adapted.lora_B.weight.data.fill(0)
        _replace(model, path, adapted)
    model.assign_paths()


def merge_lora(model: Module) -> list[str]:
    """Add what LoRA layers have learned to their matrices, and turn them into Linear again.

    Returns their paths. Everything stays frozen; see `unfreeze`.
    """
    found = list(_adapted(model))
    for path, adapted in found:
        _replace(model, path, adapted.merged())
    model.assign_paths()
    return [path for path, _ in found]


def save_lora(model: Module, folder: str | Path) -> None:
    """Write the low-rank matrices alone, as the peft library does.

    Raises FileExistsError if the folder holds an adapter already, ValueError if the model has none,
    or layers of several dropouts, of which the format knows one.
    """
    folder, found = Path(folder), dict(_adapted(model))
    if not found:
        raise ValueError("the model has no LoRA layers")
    dropouts = sorted({layer.dropout.p for layer in found.values()})
    if len(dropouts) > 1:
        raise ValueError(
            f"the LoRA layers have dropouts {dropouts}, and an adapter has one: set all layers' "
            "dropout.p to it"
        )
    if (folder / ADAPTER_CONFIG).exists():
        raise FileExistsError(f"{folder} holds an adapter already")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{ADAPTER_PREFIX}{path}.{part}.weight": getattr(adapted, part).weight.data
        for path, adapted in found.items()
        for part in ("lora_A", "lora_B")
    }
    write_safetensors(folder / ADAPTER_WEIGHTS, arrays, {"format": "pt"})
    first = next(iter(found.values()))
    # A pattern is a path's end, unless it says that it is all of it.
    patterns = {p: "^" * any(other.endswith(f".{p}") for other in found) + p for p in found}
    values = {
        "peft_type": "LORA",
        "r": first.rank,
        "lora_alpha": first.alpha,
        "rank_pattern": {
            patterns[path]: x.rank for path, x in found.items() if x.rank != first.rank
        },
        "alpha_pattern": {
            patterns[path]: x.alpha for path, x in found.items() if x.alpha != first.alpha
        },
        "lora_dropout": first.dropout.p,
        "target_modules": list(found),
        "bias": "none",
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2) + "\n")


def load_lora(model: Module, folder: str | Path) -> list[str]:
    """Add the low-rank matrices that `save_lora` or peft wrote; returns the layers' paths.

    The new layers are in the mode (training or evaluation) of those that they replace. Raises
    ValueError for another kind of adapter, naming what is not supported, or layers that the model
    lacks, KeyError if the arrays do not match. The model stays as it is then.
    """
    folder = Path(folder)
    config = AdapterConfig.read(folder / ADAPTER_CONFIG)
    file = SafetensorsFile(folder / ADAPTER_WEIGHTS)
    state = {name.removeprefix(ADAPTER_PREFIX): file[name] for name in file}
    linears = _linears(model)
    wanted, shapes = {}, {}
    for path in sorted({name.rsplit(".lora_", 1)[0] for name in state if ".lora_" in name}):
        if path not in linears:
            raise ValueError(f"{folder} changes {short(path)}, which is no Linear of the model")
        wanted[path] = config.of(path)
        rank = wanted[path][0]
        shapes[f"{path}.lora_A.weight"] = rank, linears[path].in_features
        shapes[f"{path}.lora_B.weight"] = linears[path].out_features, rank
    if not wanted:
        raise KeyError(f"{folder} holds no LoRA matrices")
    if other := sorted(shapes.keys() ^ state.keys()):
        raise KeyError(f"{folder}: arrays that form no pairs of LoRA: {short(other)}")
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise KeyError(f"{folder}: {name} has wrong shape {state[name].shape} for {shape}")
    _adapt(model, wanted, config.dropout)
    model.load_state_dict(state, strict=False)
    return list(wanted)


def _adapted(model: Module) -> Iterator[tuple[str, LoRALinear]]:
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield path, module


def _replace(model: Module, path: str, module: Module) -> None:
    module.train(model.submodule(path).training)
    parent, _, name = path.rpartition(".")
    setattr(model.submodule(parent), name, module)
