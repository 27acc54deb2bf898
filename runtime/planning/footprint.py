"""How much memory a rank needs: the papers' formulas, for a GPT on a mesh.

Parameters, gradients and optimizer state: Rajbhandari et al., "ZeRO" (2020), section 5.
Activations: Korthikanti et al., "Reducing activation recomputation in large transformer models"
(2022), section 4, with what the operations here keep for their backward.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ringlet.nn.autograd.operations.linear_cross_entropy import LOGITS, ROWS
from ringlet.nn.autograd.operations.tiled_attention import KEPT, rows_for
from ringlet.nn.models import GPTConfig
from ringlet.runtime.data.zero_blocks import BUFFERS
from ringlet.runtime.mesh import AXES, share
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.prove import prove
from ringlet.runtime.pipeline.schedules import make_schedule

ITEM = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on one rank."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of them together."""
        return self.parameters + self.gradients + self.optimizer + self.activations


def footprint(
    sizes: GPTConfig,
    shape: Mapping[str, int],
    options: Parallelism,
    *,
    samples: int,
    micro_batches: int = 1,
    stage_rank: int = 0,
    states: int = 2,
) -> Footprint:
    """What the pipeline's rank `stage_rank` needs for a training step.

    `samples` is the number of contexts in a micro-batch, `states` the number of the optimizer's
    arrays (AdamW has 2, SGD without momentum none).
    """
    shape = {axis: shape.get(axis, 1) for axis in AXES}
    experts = expert_parameters(sizes, shape["tp"]) / shape["ep"]
    block = dense_parameters(sizes, shape["tp"]) + experts
    stages = shape["pp"] * options.chunks
    mine = [stage for stage in range(stages) if stage % shape["pp"] == stage_rank]
    blocks = sum(share(sizes.n_layer, stages, stage)[1] for stage in mine)
    root = (embed_parameters(sizes, shape["tp"]) if 0 in mine else 0) + (
        head_parameters(sizes, shape["tp"], tied=0 in mine) if stages - 1 in mine else 0
    )
    whole, ranks = blocks * block + root, shape["dp"] * shape["cp"]
    here = min(BUFFERS, blocks) * block + root  # a few blocks at a time, from stage 2 on
    # Those who differ in ep share everything but the experts.
    part = blocks * experts / ranks + (whole - blocks * experts) / (ranks * shape["ep"])
    return Footprint(
        parameters=ITEM * (part + here if options.zero == 3 else whole),
        gradients=ITEM * (part + here if options.zero >= 2 else whole),
        optimizer=ITEM * states * (part if options.zero else whole),
        activations=ITEM * _activations(sizes, shape, options, samples, micro_batches, stage_rank),
    )


def dense_parameters(sizes: GPTConfig, tensor: int = 1) -> float:
    """Numbers in a block without its experts, if it has any."""
    width, bias = sizes.n_embd, sizes.bias
    attention = (4 * width * width + 3 * width * bias) / tensor + width * bias
    mlp = width * sizes.n_expert if sizes.n_expert else _mlp_parameters(sizes, tensor)
    return attention + mlp + 4 * width


def expert_parameters(sizes: GPTConfig, tensor: int = 1) -> float:
    """Numbers in all experts of a block."""
    return sizes.n_expert * _mlp_parameters(sizes, tensor)


def _mlp_parameters(sizes: GPTConfig, tensor: int) -> float:
    width, bias = sizes.n_embd, sizes.bias
    return (8 * width * width + 4 * width * bias) / tensor + width * bias


def embed_parameters(sizes: GPTConfig, tensor: int = 1) -> float:
    """Numbers in the embeddings of ids, which are sharded, and of positions."""
    return -(-sizes.vocab_size // tensor) * sizes.n_embd + sizes.block_size * sizes.n_embd


def head_parameters(sizes: GPTConfig, tensor: int = 1, tied: bool = True) -> float:
    """Numbers in the last norm and, if the embedding is on another rank, in its copy here."""
    copy = 0 if tied else -(-sizes.vocab_size // tensor) * sizes.n_embd
    return 2 * sizes.n_embd + copy


def block_activations(
    sizes: GPTConfig, shape: Mapping[str, int], options: Parallelism
) -> tuple[float, float]:
    """Numbers that a block keeps for one sample: all of them, and with recomputation.

    For each position, in units of the width: 4 outside the sharded layers (two normalized inputs
    and two inputs of linear layers), and 12 inside (queries, keys and values 3, attention 1, and
    twice 4 in the MLP). For each of a position's top_k experts (if the load is even and none is
    dropped) 2 more: what goes into the expert and what comes out. Attention keeps its exponentials
    for short contexts, otherwise (and in a ring) only their sums.
    """
    tensor, context = shape["tp"], shape["cp"]
    row = sizes.block_size / context * sizes.n_embd
    outside = 4 * row / (tensor if options.sequence else 1)
    scores = sizes.n_head * sizes.block_size * _seen(sizes.block_size) if context == 1 else 0.0
    if any("attend" in pattern for pattern in options.recompute):
        scores = 0.0
    mlp = 8 * row / tensor
    if sizes.n_expert:
        mlp = sizes.top_k * (mlp + 2 * row)
    everything = outside + (4 * row + scores) / tensor + mlp
    return everything, row / (tensor if options.sequence else 1)


def _seen(length: int) -> float:
    """Keys for which a query's exponentials are kept, on average over the blocks of queries."""
    if length > KEPT:
        return 0.0
    rows = rows_for(length)
    starts = range(0, length, rows)
    return sum(min(s + rows, length) * min(rows, length - s) for s in starts) / length


def _activations(
    sizes: GPTConfig,
    shape: Mapping[str, int],
    options: Parallelism,
    samples: int,
    micro_batches: int,
    rank: int,
) -> float:
    """Numbers kept at the peak, for all micro-batches in flight on all stages of the rank."""
    schedule = make_schedule(options.schedule, shape["pp"], micro_batches, options.chunks)
    blocks = share(sizes.n_layer, schedule.stages, rank)[1]  # of one stage; the first have most
    everything, inputs = block_activations(sizes, shape, options)
    kept, more = (inputs, everything) if "blocks" in options.recompute else (everything, 0.0)
    total = samples * (prove(schedule).peaks[rank] * blocks * kept + more)
    if rank == (schedule.stages - 1) % shape["pp"]:
        rows = samples * sizes.block_size / shape["cp"]
        total += 2 * rows * sizes.n_embd / (shape["tp"] if options.sequence else 1)
        # A gradient of all logits, or a block of them and the gradients made from it (see
        # nn.autograd.operations.linear_cross_entropy).
        vocabulary = sizes.vocab_size / shape["tp"]
        block = max(ROWS, LOGITS / vocabulary) * vocabulary
        total += min(rows * vocabulary, block + (vocabulary + rows) * sizes.n_embd)
    return total
