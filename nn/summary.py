"""A model at a glance: the shapes, parameters and operations of each module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ringlet.nn.autograd.grad_mode import no_grad
from ringlet.nn.autograd.operations.attention import PackedSelfAttention, ScaledDotProductAttention
from ringlet.nn.autograd.operations.linear_cross_entropy import LinearCrossEntropy
from ringlet.nn.autograd.operations.products import Linear, MatMul
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.module import Module
from ringlet.nn.watch import watching


@dataclass
class ModuleSummary:
    """A module: its depth in the model, the shape of its last result, its number of parameters,
    and the floating-point operations of one forward pass."""

    path: str
    kind: str
    depth: int
    parameters: int
    shape: tuple[int, ...] | None = None
    flops: int = 0


class Summary:
    """The result of `Module.summary`: `rows`, printed as a table."""

    def __init__(self, rows: list[ModuleSummary]) -> None:
        self.rows = rows

    @property
    def parameters(self) -> int:
        """The number of parameters; shared ones count once."""
        return self.rows[0].parameters

    @property
    def flops(self) -> int:
        """Floating-point operations of the forward pass; backward takes about twice as many."""
        return self.rows[0].flops

    def __str__(self) -> str:
        table = [("module", "result", "parameters", "FLOPs")]
        for row in self.rows:
            name = "  " * row.depth + (row.path.rpartition(".")[2] or row.kind)
            label = name if row.path == "" else f"{name} ({row.kind})"
            shape = "-" if row.shape is None else str(row.shape)
            table.append((label, shape, f"{row.parameters:,}", f"{row.flops:,}"))
        widths = [max(len(line[n]) for line in table) for n in range(4)]
        return "\n".join(
            f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in table
        )

    __repr__ = __str__


def summarize(model: Module, *args: Any, **kwargs: Any) -> Summary:
    """Run the model once, without gradients; shapes, parameters and FLOPs of each module."""
    model.assign_paths()
    rows: dict[int, ModuleSummary] = {}
    for path, module in model.named_modules():
        size, depth = module.num_parameters(), path.count(".") + 1 if path else 0
        rows.setdefault(id(module), ModuleSummary(path, type(module).__name__, depth, size))

    def watcher(
        operation: Operation, inputs: tuple[Tensor, ...], result: Tensor, around: list[Module]
    ) -> None:
        count = flops(operation, inputs, result)
        for module in {id(each): each for each in (model, *around)}.values():
            rows[id(module)].flops += count
            rows[id(module)].shape = result.shape  # its last operation's in the end

    with watching(watcher), no_grad():
        model(*args, **kwargs)
    return Summary(list(rows.values()))


Module.summary = summarize


def flops(operation: Operation, inputs: tuple[Tensor, ...], result: Tensor) -> int:
    """Floating-point operations: two for each multiply-add of a product, one for each element of
    any other result."""
    count = _PRODUCTS.get(type(operation))
    return count(operation, inputs, result) if count else result.numel()


def _linear(operation: Operation, inputs: tuple[Tensor, ...], result: Tensor) -> int:
    return 2 * result.numel() * inputs[1].shape[1] + (result.numel() if len(inputs) > 2 else 0)


def _linear_loss(operation: Any, inputs: tuple[Tensor, ...], result: Tensor) -> int:
    """A product, and four for each logit: maximum, difference, exponential, sum."""
    x, weight = inputs[:2]
    return x.numel() * len(weight) * 2 + x.numel() // x.shape[-1] * len(weight) * 4


def _matmul(operation: Operation, inputs: tuple[Tensor, ...], result: Tensor) -> int:
    return 2 * result.numel() * inputs[0].shape[-1]


def _attention(operation: Any, inputs: tuple[Tensor, ...], result: Tensor) -> int:
    """Of the scores that were computed, without the blocks above the diagonal."""
    scores = sum(block.scores for block in operation.blocks)
    packed = isinstance(operation, PackedSelfAttention)
    width = inputs[0].shape[-1] // (3 * operation.heads) if packed else inputs[0].shape[-1]
    return scores * (2 * 2 * width + 4)  # two products; scale, maximum, exponential, sum


_PRODUCTS: dict[type[Operation], Callable[[Any, tuple[Tensor, ...], Tensor], int]] = {
    Linear: _linear,
    LinearCrossEntropy: _linear_loss,
    MatMul: _matmul,
    ScaledDotProductAttention: _attention,
    PackedSelfAttention: _attention,
}
