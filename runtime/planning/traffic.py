"""What a rank sends in a training step: the papers' counts, without the algorithm's choice.

Of an array of n ranks, an all-reduce sends 2 (n-1)/n from each, a reduce-scatter and an all-gather
(n-1)/n (Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in
MPICH", 2005), an all-to-all (n-1)/n of what a rank has. A pipeline's messages are activations and
their gradients. The load of experts counts as even, and what a causal mask spares the ring of
context parallelism as sent. Not counted are the few numbers for the loss and the norm, and
compressed sums, which depend on the values.
"""

from collections import defaultdict
from collections.abc import Iterator

from ringlet.runtime.data.zero_blocks import BUFFERS
from ringlet.runtime.planning.costs import WHOLE, repeated
from ringlet.runtime.planning.finish import groups, sums
from ringlet.runtime.planning.footprint import shards
from ringlet.runtime.planning.models import Model, dense_parameters
from ringlet.runtime.planning.operations import Call, block_part, embedding_part, head_part
from ringlet.runtime.planning.setting import Setting


def traffic(model: Model, setting: Setting) -> list[dict[str, float]]:
    """By rank of the pipeline, bytes by operation: "send" between stages and, as ringlet runs
    context parallelism, of keys and values along the ring."""
    found = []
    for rank, numbers in enumerate(shards(model, setting)):
        sent: defaultdict[str, float] = defaultdict(float)
        for call in _in_passes(model, setting, rank):
            name = "send" if call.axis == "cp" else call.operation
            each = _from_each(call.operation, setting.mesh[call.axis], call.nbytes)
            sent[name] += each * setting.micro_batches
        for operation, size, nbytes in _of_shards(model, setting, rank, numbers):
            sent[operation] += _from_each(operation, size, nbytes)
        sent["send"] += _messages(model, setting, rank)
        found.append({name: nbytes for name, nbytes in sent.items() if nbytes})
    return found


def _from_each(operation: str, size: int, nbytes: float) -> float:
    return (2 if operation == "all_reduce" else 1) * (size - 1) / size * nbytes


def _in_passes(model: Model, setting: Setting, rank: int) -> Iterator[Call]:
    """The collectives of the layers, in forward and backward of one micro-batch."""
    again = repeated(setting.options, len(model.blocks))
    for stage, numbers in _stages(model, setting, rank):
        for number in numbers:
            part = block_part(model.blocks[number], model, setting)
            yield from part.forward_calls * (2 if again[number] == WHOLE else 1)
            yield from part.inputs_calls
        ends = [embedding_part(model, setting)] if stage == 0 else []
        ends += [head_part(model, setting)] if stage == setting.stages - 1 else []
        for call in (call for part in ends for call in part.forward_calls + part.inputs_calls):
            width = setting.program.precision.activation * model.width
            if setting.options.sequence and call.nbytes >= _rows(model, setting) * width:
                yield Call("reduce_scatter", call.axis, call.nbytes)  # and in the other direction
                yield Call("all_gather", call.axis, call.nbytes)
            else:
                yield call


def _stages(model: Model, setting: Setting, rank: int) -> Iterator[tuple[int, range]]:
    """The stages of a rank of the pipeline, and their blocks."""
    blocks = setting.blocks_of(len(model.blocks))
    return ((stage, blocks[stage]) for stage in setting.stages_by_rank[rank])


def _rows(model: Model, setting: Setting) -> int:
    return setting.micro_batch * model.context // setting.mesh["cp"]


def _of_shards(
    model: Model, setting: Setting, rank: int, numbers: tuple[float, float, float]
) -> Iterator[tuple[str, int, float]]:
    """The collectives of gradients and parameters: (operation, ranks, bytes)."""
    options, precision = setting.options, setting.program.precision
    for operation, group, nbytes in [] if options.compress else sums(setting, numbers):
        yield operation, group.size, nbytes / options.local_steps
    if options.sequence:
        in_parts = sum(_in_parts(model, setting, *each) for each in _stages(model, setting, rank))
        yield "all_reduce", setting.mesh["tp"], in_parts * precision.gradient
    for group, each in zip(groups(setting), numbers, strict=False):
        if options.zero >= 2:
            yield "reduce_scatter", group.size, each * precision.gradient * setting.micro_batches
        if options.zero in (1, 2):
            yield "all_gather", group.size, each * precision.parameter
        if options.zero == 3:
            yield "all_gather", group.size, each * precision.parameter * setting.micro_batches
    ends = {0, setting.stages - 1}
    own = {*setting.stages_by_rank[rank]}
    if model.tied and ends & own and not ends <= own:
        words = -(-model.vocabulary // setting.mesh["tp"])
        yield "all_reduce", 2, float(words * model.width * precision.gradient)
    if options.zero == 3:  # in backward again, but for those that are still there
        blocks = [number for _, each in _stages(model, setting, rank) for number in each]
        dense, _ = groups(setting)
        for number in blocks[:-BUFFERS]:
            each = dense_parameters(model.blocks[number], setting.mesh["tp"])
            yield "all_gather", dense.size, each * precision.parameter * setting.micro_batches


def _in_parts(model: Model, setting: Setting, stage: int, numbers: range) -> int:
    """Numbers in a stage of whose gradients each tensor-parallel rank has a part, with sequence
    parallelism: norms, biases after a reduction, positions."""
    found = 0
    for block in (model.blocks[number] for number in numbers):
        found += block.norms * block.norm * block.width
        found += block.attention_parameters[1] + block.mlp_parameters[1]
    if stage == 0 and model.positions:
        found += model.context * model.width
    return found + model.blocks[-1].norm * model.width * (stage == setting.stages - 1)


def _messages(model: Model, setting: Setting, rank: int) -> float:
    """Bytes of activations to the next stages, and of their gradients to those before."""
    own = setting.stages_by_rank[rank]
    parts = setting.mesh["tp"] if setting.options.sequence else 1
    each = _rows(model, setting) * model.width * setting.program.precision.activation / parts
    neighbours = (stage + way for stage in own for way in (-1, 1))
    others = [n for n in neighbours if 0 <= n < setting.stages and n not in own]
    return len(others) * each * setting.micro_batches
