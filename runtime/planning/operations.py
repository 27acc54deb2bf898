"""The operations of a block, of the embedding and of the head, for one micro-batch on one rank.

FLOPs of products: 2 x rows x columns x inner. Bytes: what each operation reads and writes, as
Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022), list
it in section 4.1. Backward to the inputs and to the weights are apart, as zero-bubble pipelines
need them (Qi et al., "Zero bubble pipeline parallelism", 2024, table 1).
"""

from dataclasses import dataclass
from typing import NamedTuple

from ringlet.nn.autograd.operations.tiled_attention import ROWS
from ringlet.runtime.planning.device import Operation
from ringlet.runtime.planning.models import Block, Model
from ringlet.runtime.planning.setting import Precision, Setting

PAIR = 6
"""Kernels of a pair of chunks in a ring, with those that join it to what was seen before."""


class Call(NamedTuple):
    """A collective of the ranks along one axis."""

    operation: str
    axis: str
    nbytes: float
    """Of the whole array, as `comm.schedules.price` counts."""


@dataclass(frozen=True)
class Part:
    """What one part of a model does for one micro-batch."""

    forward: tuple[Operation, ...] = ()
    inputs: tuple[Operation, ...] = ()
    weights: tuple[Operation, ...] = ()
    core: tuple[Operation, ...] = ()
    """Of forward, attention between its projections: what selective recomputation repeats."""

    forward_calls: tuple[Call, ...] = ()
    inputs_calls: tuple[Call, ...] = ()

    @property
    def flops(self) -> float:
        """FLOPs of all products, forward and backward, without recomputation."""
        every = (*self.forward, *self.inputs, *self.weights)
        return sum(one.flops for one in every)


def linear(rows: int, columns: int, inner: int, item: int) -> tuple[Operation, ...]:
    """A product, and those of its backward to inputs and weights."""
    flops = 2.0 * rows * columns * inner
    nbytes = float(item * (rows * columns + rows * inner + columns * inner))
    return (
        Operation("linear", (rows, columns, inner), flops, nbytes),
        Operation("linear_inputs", (rows, inner, columns), flops, nbytes),
        Operation("linear_weights", (columns, inner, rows), flops, nbytes),
    )


def update(numbers: float, precision: Precision) -> Operation:
    """The update of so many parameters: state, parameters and gradients are read and written, the
    latter also to be scaled and for the norm."""
    each = 2 * (precision.optimizer + precision.parameter) + 4 * precision.gradient
    return Operation("update", (max(1, round(numbers)),), nbytes=numbers * each)


def block_part(block: Block, model: Model, setting: Setting) -> Part:
    """The work of one block."""
    made = _Maker(block, model, setting)
    for _ in range(block.attentions):
        made.attention()
    made.mlp()
    return made.part()


class _Maker:
    """Collects the operations of a block."""

    def __init__(self, block: Block, model: Model, setting: Setting) -> None:
        mesh, program = setting.mesh, setting.program
        self.block, self.setting, self.item = block, setting, program.precision.activation
        self.tensor, self.context = mesh["tp"], mesh["cp"]
        self.keys, self.samples = model.context, setting.micro_batch
        self.queries = -(-model.context // self.context)
        self.rows = self.samples * self.queries
        """Positions on this rank."""
        self.tiled = program.tiled and model.context > program.contexts_kept
        self.skips = block.causal and program.tiled
        self.forward: list[Operation] = []
        self.inputs: list[Operation] = []
        self.weights: list[Operation] = []
        self.core: list[Operation] = []
        self.forward_calls: list[Call] = []
        self.inputs_calls: list[Call] = []

    def part(self) -> Part:
        return Part(
            tuple(self.forward), tuple(self.inputs), tuple(self.weights), tuple(self.core),
            tuple(self.forward_calls), tuple(self.inputs_calls),
        )  # fmt: skip

    def product(self, rows: int, columns: int, inner: int) -> None:
        made = linear(max(rows, 1), max(columns, 1), max(inner, 1), self.item)
        for operations, one in zip((self.forward, self.inputs, self.weights), made, strict=True):
            operations.append(one)

    def moved(self, name: str, shape: tuple[int, int], there: float, back: float) -> None:
        """An operation that is no product: bytes, as multiples of its shape, in both ways."""
        size = float(shape[0] * shape[1] * self.item)
        self.forward.append(Operation(name, shape, nbytes=there * size))
        self.inputs.append(Operation(f"{name}_backward", shape, nbytes=back * size, kernels=2))

    def attention(self) -> None:
        block, tensor = self.block, self.tensor
        width, head = block.width, block.head
        heads, keys = -(-block.heads // tensor), -(-block.kv_heads // tensor)
        self.enter()
        if block.gated:  # a Llama's projections are three matrices
            for columns in (heads, keys, keys):
                self.product(self.rows, columns * head, width)
        else:
            self.product(self.rows, (heads + 2 * keys) * head, width)
        self.moved("heads", (self.rows, (heads + 2 * keys) * head), 2, 2)
        if self.context > 1 and self.skips:
            self.ring(heads, head)
        else:
            self.attend(heads, head)
        if self.context > 1:
            moved = 2.0 * self.samples * self.keys * keys * head * self.item
            self.forward_calls.append(Call("all_gather", "cp", moved))
            self.inputs_calls.append(Call("all_gather", "cp", moved))
            self.inputs_calls.append(Call("reduce_scatter", "cp", moved))
        self.product(self.rows, width, heads * head)
        self.leave()

    def attend(self, heads: int, head: int) -> None:
        """The scores, softmax and the sum of values."""
        batch = self.samples * heads
        shape = (batch, self.queries, self.keys, head)
        scores = float(batch * self.queries * self.keys)
        seen = 0.5 if self.skips else 1.0
        if self.skips and 0 < self.block.window < self.keys:
            part = self.block.window / self.keys
            seen = part * (1 - part / 2)
        flops = 4.0 * scores * head * seen
        nbytes = float(batch * head * (2 * self.queries + 2 * self.keys) * self.item)
        # Through memory: scaled, masked softmax reads and writes; dropout too, and its mask.
        dropout = 2.5 if self.block.dropout else 0.0
        passes = 0.0 if self.tiled else scores * seen * self.item
        there = Operation(
            "attention", shape, flops, nbytes, 5 if passes else 1, passes * (2 + dropout)
        )
        again = 2.5 if self.tiled else 2.0  # tiles compute the scores again
        back = Operation(
            "attention_backward", shape, again * flops, 2 * nbytes, 7 if passes else 2,
            passes * (3.5 + 1.2 * dropout),
        )  # fmt: skip
        self.forward.append(there)
        self.core.append(there)
        self.inputs.append(back)

    def ring(self, heads: int, head: int) -> None:
        """Pairs of chunks of queries and keys, as runtime/context pairs them: two on the diagonal,
        where tiles are the finest that is skipped, and two for each other rank and one."""
        batch, chunk = self.samples * heads, -(-self.queries // 2)
        shape = (batch, chunk, chunk, head)
        nbytes = float(4 * batch * chunk * head * self.item)
        diagonal = 0.5 + 0.5 * min(1.0, ROWS / chunk)
        for seen, count in ((diagonal, 2), (1.0, 2 * self.context - 1)):
            flops = 4.0 * batch * chunk * chunk * head * seen
            there = Operation("attention_pair", shape, flops, nbytes, PAIR)
            back = Operation("attention_pair_backward", shape, 2.5 * flops, 2 * nbytes, PAIR)
            self.forward += [there] * count
            self.core += [there] * count
            self.inputs += [back] * count

    def mlp(self) -> None:
        block = self.block
        inner, rows = -(-block.inner // self.tensor), self.rows
        self.enter()
        products = 1
        if block.experts:
            products = max(block.experts // self.setting.mesh["ep"], 1)
            self.product(self.rows, block.experts, block.width)
            moved = float(self.rows * block.top_k * block.width * self.item)
            self.moved("route", (self.rows * block.top_k, block.width), 4, 4)
            calls = [Call("all_to_all", "ep", moved)] * 2
            self.forward_calls += calls
            self.inputs_calls += calls
            rows = -(-self.rows * block.top_k // products)
        for _ in range(products):
            for _ in range(2 if block.gated else 1):
                self.product(rows, inner, block.width)
            self.moved("swiglu" if block.gated else "gelu", (rows, inner), 3 if block.gated else 2,
                       5 if block.gated else 3)  # fmt: skip
            self.product(rows, block.width, inner)
        self.leave()

    def enter(self) -> None:
        """Normalize; with sequence parallelism, gather what the ranks have."""
        self.moved("norm", self.outside, 2, 3)
        self._tensor_calls("all_gather", "reduce_scatter", here=False)

    def leave(self) -> None:
        """Sum over tensor-parallel ranks, drop out and add to the input."""
        self._tensor_calls("reduce_scatter", "all_gather", here=True)
        there = 3.5 if self.block.dropout else 3.0
        self.moved("residual", self.outside, there, there - 0.5)

    @property
    def outside(self) -> tuple[int, int]:
        """The shape of what lies between sharded layers."""
        parts = self.tensor if self.setting.options.sequence else 1
        return -(-self.rows // parts), self.block.width

    def _tensor_calls(self, there: str, back: str, here: bool) -> None:
        if self.tensor == 1:
            return
        nbytes = float(self.rows * self.block.width * self.item)
        if self.setting.options.sequence:
            self.forward_calls.append(Call(there, "tp", nbytes))
            self.inputs_calls.append(Call(back, "tp", nbytes))
            if not here:  # what was gathered is not kept: the weights' gradients need it again
                self.inputs_calls.append(Call(there, "tp", nbytes))
        elif here:  # what comes out is summed in forward, what goes in in backward
            self.forward_calls.append(Call("all_reduce", "tp", nbytes))
        else:
            self.inputs_calls.append(Call("all_reduce", "tp", nbytes))


def embedding_part(model: Model, setting: Setting) -> Part:
    """Look up ids and positions; backward adds up rows."""
    item = setting.program.precision.activation
    rows = setting.micro_batch * model.context // setting.mesh["cp"]
    shape, size = (rows, model.width), float(rows * model.width * item)
    calls = () if setting.mesh["tp"] == 1 else (Call("all_reduce", "tp", size),)
    return Part(
        forward=(Operation("embedding", shape, nbytes=5 * size, kernels=3),),
        weights=(Operation("embedding_backward", shape, nbytes=4 * size, kernels=3),),
        forward_calls=calls,
    )


def head_part(model: Model, setting: Setting) -> Part:
    """The last normalization, logits and loss."""
    item, tensor = setting.program.precision.activation, setting.mesh["tp"]
    rows = setting.micro_batch * model.context // setting.mesh["cp"]
    words, width = -(-model.vocabulary // tensor), model.width
    forward, inputs, weights = linear(rows, words, width, item)
    size, logits = float(rows * width * item), float(rows * words)
    calls = () if tensor == 1 else (Call("all_reduce", "tp", 4.0 * rows),) * 3
    back = () if tensor == 1 else (Call("all_reduce", "tp", size),)
    # The loss is computed in float32: a copy, exponentials and sums in forward.
    return Part(
        forward=(
            Operation("norm", (rows, width), nbytes=2 * size),
            forward,
            Operation("loss", (rows, words), nbytes=12 * logits, kernels=6),
        ),
        inputs=(
            inputs,
            Operation("loss_backward", (rows, words), nbytes=8 * logits, kernels=3),
            Operation("norm_backward", (rows, width), nbytes=3 * size, kernels=2),
        ),
        weights=(weights,),
        forward_calls=calls,
        inputs_calls=back,
    )
