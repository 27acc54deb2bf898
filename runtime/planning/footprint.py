"""How much memory a rank needs: the papers' formulas, for any model on a mesh.

Parameters, gradients and optimizer state: Rajbhandari et al., "ZeRO" (2020), section 5.
Activations: Korthikanti et al., "Reducing activation recomputation in large transformer models"
(2022), section 4, with what the operations here keep for their backward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add, mul

from ringlet.nn.autograd.operations.linear_cross_entropy import LOGITS, ROWS
from ringlet.nn.autograd.operations.tiled_attention import rows_for
from ringlet.runtime.data.zero_blocks import BUFFERS
from ringlet.runtime.pipeline.activations import Moments
from ringlet.runtime.planning.costs import CORE, WHOLE, repeated
from ringlet.runtime.planning.models import (
    Block,
    Model,
    dense_parameters,
    embed_parameters,
    expert_parameters,
    head_parameters,
)
from ringlet.runtime.planning.setting import Precision, Setting

LAYER_NORM = 2
"""`Block.norm` of one; RMSNorm's is 1."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on one rank."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    """What micro-batches in flight keep for their backward."""

    buffers: float = 0.0
    """What is there for a moment: results and gradients on their way through a block, or logits;
    messages, inputs gathered over tensor-parallel ranks, and the blocks that ZeRO's stages 2 and 3
    have whole; and a compressor's memory."""

    @property
    def total(self) -> float:
        """All of them together."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.buffers


def states(
    parameters: float, ranks: int, zero: int, precision: Precision
) -> tuple[float, float, float]:
    """Bytes of parameters, gradients and optimizer state, ZeRO's stage `zero` over so many ranks.

    With precision.MIXED this is table 1 of the paper: (4 + 12 / N), (2 + 14 / N) and 16 / N bytes
    for each parameter.
    """
    part = parameters / ranks
    return (
        precision.parameter * (part if zero == 3 else parameters),
        precision.gradient * (part if zero >= 2 else parameters),
        precision.optimizer * (part if zero else parameters),
    )


def footprint(model: Model, setting: Setting, stage_rank: int = 0) -> Footprint:
    """What the pipeline's rank `stage_rank` needs for a training step."""
    return footprints(model, setting)[stage_rank]


def footprints(
    model: Model, setting: Setting, held: Sequence[Moments] | None = None
) -> tuple[Footprint, ...]:
    """The same of every rank of the pipeline; `held` in place of what its schedule holds."""
    options, precision, mesh = setting.options, setting.program.precision, setting.mesh
    ranks = mesh["dp"] * mesh["cp"]
    messages, found = _messages(model, setting), []
    kept, working = _by_stage(model, setting)
    every = setting.stages_by_rank, held or setting.held, shards(model, setting)
    for own, moments, (dense, experts, largest) in zip(*every, strict=True):
        sizes = [kept[stage] for stage in own]
        activations = max(sum(map(mul, moment, sizes)) for moment in moments)
        # Those who differ in ep share everything but the experts.
        state = zip(
            states(dense, ranks * mesh["ep"], options.zero, precision),
            states(experts, ranks, options.zero, precision),
            strict=True,
        )
        buffers = messages + max(working[stage] for stage in own) + setting.program.besides
        if options.zero >= 2:  # a few blocks at a time
            whole = precision.gradient + (precision.parameter if options.zero == 3 else 0)
            buffers += whole * largest
        if options.compress:
            buffers += precision.gradient * dense  # what was lost
        parameters, gradients, optimizer = map(sum, state)
        found.append(Footprint(parameters, gradients, optimizer, activations, buffers))
    return tuple(found)


def shards(model: Model, setting: Setting) -> list[tuple[float, float, float]]:
    """Numbers on each rank of the pipeline, before ZeRO: outside experts, in experts, and in what
    ZeRO has whole at once, a few blocks and all that lies outside them."""
    tensor, expert = setting.mesh["tp"], setting.mesh["ep"]
    stages, last = setting.blocks_of(len(model.blocks)), setting.stages - 1
    kinds, kind_of = model.kinds
    dense = [dense_parameters(block, tensor) for block in kinds]
    experts = [expert_parameters(block, tensor) / expert for block in kinds]
    found = []
    for own in setting.stages_by_rank:
        blocks = [kind_of[number] for stage in own for number in stages[stage]]
        root = embed_parameters(model, tensor) if 0 in own else 0.0
        if last in own:
            root += head_parameters(model, tensor, shared=setting.mesh["pp"] == 1)
        here, shared = [dense[kind] for kind in blocks], [experts[kind] for kind in blocks]
        together = sum(sorted(map(add, here, shared))[-BUFFERS:])
        found.append((sum(here) + root, sum(shared), together + root))
    return found


def block_activations(block: Block, model: Model, setting: Setting) -> tuple[float, float, float]:
    """Bytes that a block keeps of one micro-batch: all, without the scores, and its input only.

    For each position, in units of the width of a GPT: 4 outside the sharded layers (two normalized
    inputs and two inputs of linear layers) and, with dropout, 2 masks; 12 inside
    (queries, keys and values 3, attention 1, and twice 4 in the MLP). For each of a position's
    top_k experts (if the load is even and none is dropped) 2 more: what goes into the expert and
    what comes out. Attention keeps its scores for short contexts, or if the program does not tile.
    """
    program, tensor = setting.program, setting.mesh["tp"]
    item = program.precision.activation
    rows = _rows(model, setting)
    split = tensor if setting.options.sequence else 1
    masks = block.norms * block.width * program.mask if block.dropout else 0
    outside = (2 * block.norms * block.width * item + masks) / split
    queries, keys = block.heads * block.head, block.kv_heads * block.head
    attention = block.attentions * (2 * queries + 2 * keys)
    mlp = (block.kept or (3 if block.gated else 2)) * block.inner / tensor
    if block.experts:
        mlp = block.top_k * (mlp + 2 * block.width)
    without = rows * (outside + item * (attention / tensor + mlp))
    scores = _scores(block, model, setting) * rows * block.heads / tensor
    return without + scores, without, rows * block.width * item / split


def _scores(block: Block, model: Model, setting: Setting) -> float:
    """Bytes of scores kept for each query of a head."""
    program, length = setting.program, model.context
    item = program.precision.activation
    if not program.tiled:
        # What softmax and dropout give, and a mask of a byte.
        return block.attentions * length * (2 * item + program.mask if block.dropout else item)
    masks = block.attentions * length * program.mask if block.score_dropout else 0
    if length > program.contexts_kept or setting.mesh["cp"] > 1:
        return masks
    if not block.causal:
        return block.attentions * length * item + masks
    rows = rows_for(length)
    starts = range(0, length, rows)
    nearest = block.window or length
    seen = (min(s + rows, length, nearest + rows - 1) * min(rows, length - s) for s in starts)
    return item * (sum(seen) / length + length * block.cross) + masks


def _messages(model: Model, setting: Setting) -> float:
    """Bytes on their way between ranks: in each direction of a pipeline, in one collective of each
    kind, and what the program needs besides to receive them."""
    mesh, program, block = setting.mesh, setting.program, model.blocks[-1]
    tensor, received, item = mesh["tp"], program.received, program.precision.activation
    rows = _rows(model, setting)
    whole, found = rows * model.width * item, 0.0
    if tensor > 1 and setting.options.sequence:  # gathered; or summed, in a copy, and scattered
        found += whole * (1 + 2 * received)
    elif tensor > 1:
        found += whole * received
    if mesh["pp"] > 1:
        found += 2 * _residual(model, setting) * (1 + received)
    if mesh["cp"] > 1:  # another rank's keys and values
        found += 2 * rows * block.kv_heads * block.head * item / tensor * (1 + received)
    if mesh["ep"] > 1:
        found += whole * block.top_k * (1 + received)
    if mesh["dp"] * mesh["ep"] * mesh["cp"] > 1:  # a bucket has at least one parameter
        words = model.vocabulary if mesh["pp"] == 1 else 0
        largest = max(words, block.inner) * block.width / tensor * program.precision.gradient
        found += max(largest, setting.options.bucket_bytes or program.bucket) * received
    return found


def _by_stage(model: Model, setting: Setting) -> tuple[list[float], list[float]]:
    """By stage, the bytes that it keeps of one micro-batch, and the most that are there besides
    while a block or the head is computed."""
    kept, working = [], []
    kinds, kind_of = model.kinds
    pairs = list(zip(kind_of, repeated(setting.options, len(kind_of)), strict=True))
    known = {pair: _block(kinds[pair[0]], pair[1], model, setting) for pair in set(pairs)}
    owns, moments = zip(*(known[pair] for pair in pairs), strict=True)
    apart = [input_apart(block, model, setting) for block in kinds]
    for numbers in setting.blocks_of(len(kind_of)):
        part = slice(numbers.start, numbers.stop)
        total = sum(owns[part])
        if numbers and numbers.start:  # a stage that is not the first
            kind, again = pairs[numbers.start]
            total += 0.0 if again == WHOLE else apart[kind]
        kept.append(total)
        working.append(max(moments[part], default=0.0))
    working[-1] = max(working[-1], _head(model, setting))
    return kept, working


def input_apart(block: Block, model: Model, setting: Setting) -> float:
    """Bytes of a block's input where normalization does not keep it: while the block is computed,
    and of a stage's first block, whose input is from another rank, until it has its gradient."""
    apart = setting.program.normalized and block.norm == LAYER_NORM
    return _residual(model, setting) if apart else 0.0


def _block(block: Block, again: str, model: Model, setting: Setting) -> tuple[float, float]:
    """Bytes that a block keeps of one micro-batch, and the most that are there besides while it is
    computed.

    Forward needs most where the MLP's activation has read what it does not keep. At the same place
    backward has the gradients of the activation's result and of the block's, and may compute a
    weight's gradient that it then adds. A block that is computed again has its result's gradient
    all the while.
    """
    program, item = setting.program, setting.program.precision.activation
    everything, without, inputs = block_activations(block, model, setting)
    own = {WHOLE: inputs, CORE: without}.get(again, everything)
    residual, tensor = _residual(model, setting), setting.mesh["tp"]
    rows = _rows(model, setting)
    hidden = item * rows * block.top_k * block.inner / tensor
    forward = (2 if block.gated else 1) * hidden + 2 * input_apart(block, model, setting)
    backward = hidden + residual * (block.top_k + 1 if block.experts else 1)
    if setting.micro_batches > 1:
        backward += item * min(program.summed, block.inner / tensor * block.width)
    moment = everything - own + max(forward, backward)
    if again == WHOLE:
        moment += residual
    return own, moment


def _rows(model: Model, setting: Setting) -> float:
    """Positions of a micro-batch on a rank."""
    return setting.micro_batch * model.context / setting.mesh["cp"]


def _residual(model: Model, setting: Setting) -> float:
    """Bytes of what passes from block to block."""
    split = setting.mesh["tp"] if setting.options.sequence else 1
    item = setting.program.precision.activation
    return _rows(model, setting) * model.width * item / split


def _head(model: Model, setting: Setting) -> float:
    """Bytes of the last normalization, and of the logits and their gradients."""
    program, tensor = setting.program, setting.mesh["tp"]
    item = program.precision.activation
    rows = _rows(model, setting)
    found, words = 2 * _residual(model, setting), model.vocabulary / tensor
    if not program.fused_loss:
        return found + 4 * rows * words
    # A gradient of all logits, or a block of them and the gradients made from it (see
    # nn.autograd.operations.linear_cross_entropy).
    weight, block = words * model.width, max(ROWS, LOGITS / words) * words
    added = min(program.summed, weight)
    if rows * words <= block + weight:
        added = added if setting.micro_batches > 1 else 0
        return found + item * (rows * (words + 2 * model.width) + added)
    return found + item * (block + weight + 2 * rows * model.width + added)
