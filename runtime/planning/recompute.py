"""What of a model's blocks is computed again so that a step fits into memory, in the least time."""

from dataclasses import replace

from ringlet.runtime.planning.costs import ATTENTIONS, BLOCK_PATHS, CORE, WHOLE, ModelCosts
from ringlet.runtime.planning.footprint import block_activations, footprints, input_apart
from ringlet.runtime.planning.models import Block, Model
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.planning.stages import Kept, knapsack

WAYS = ("", CORE, WHOLE)
"""What of a block is computed again: nothing, attention without its products, or everything."""


def needed(model: Model, setting: Setting) -> float:
    """The most bytes that a rank needs."""
    return max(rank.total for rank in footprints(model, setting))


def recomputed(setting: Setting) -> Setting:
    """The setting with all blocks computed again."""
    return replace(setting, options=replace(setting.options, recompute=("blocks",)))


def needed_at_least(model: Model, setting: Setting, free: bool) -> float:
    """A bound of `needed` for any schedule, and for all blocks computed again if that is `free` to
    choose: before its first backward, every rank holds one micro-batch in all its stages."""
    once = [((1,) * setting.options.chunks,)] * setting.mesh["pp"]
    ways = [setting, recomputed(setting)] if free else [setting]
    ranks = zip(*(footprints(model, way, once) for way in ways), strict=True)
    return max(min(way.total for way in rank) for rank in ranks)


def fitted(costs: ModelCosts, limit: float, free: bool) -> tuple[Setting | None, float]:
    """The setting of these costs with as little computed again as lets every rank do with `limit`
    bytes, and the bytes that some rank needs at least.

    A knapsack over the blocks of each rank; None if not even recomputing all of them is enough,
    or if that is not `free` to choose and the setting as it is needs more.
    """
    setting, model = costs.setting, costs.model
    plain = footprints(model, setting)
    least = max(rank.total for rank in plain)
    if least <= limit or not free:
        return setting if least <= limit else None, least
    most = footprints(model, recomputed(setting))
    least = min(least, max(rank.total for rank in most))
    if any(min(a.total, b.total) > limit for a, b in zip(plain, most, strict=True)):
        return None, least
    kinds, kind_of = model.kinds
    stages = setting.blocks_of(len(kind_of))
    ways = [[_ways(b, setting, costs, first) for b in kinds] for first in (False, True)]
    every = zip(setting.stages_by_rank, setting.held, plain, most, strict=True)
    chosen = [""] * len(model.blocks)
    for own_stages, held, before, after in every:
        if before.total <= limit:
            continue
        counts = [max(column) for column in zip(*held, strict=True)]
        own = [
            (count, n, ways[stage > 0 and n == stages[stage].start][kind_of[n]])
            for count, stage in zip(counts, own_stages, strict=True)
            for n in stages[stage]
        ]
        kept = [[Kept(count * way.nbytes, way.seconds) for way in each] for count, _, each in own]
        inputs = sum(one[-1].nbytes for one in kept)
        found = knapsack(kept, limit - (after.total - inputs))
        if found is None:
            return None, least
        for (_, n, _), way in zip(own, found, strict=True):
            chosen[n] = WAYS[way]
    patterns = _patterns(model, chosen)
    return replace(setting, options=replace(setting.options, recompute=patterns)), least


def _ways(block: Block, setting: Setting, costs: ModelCosts, first: bool) -> list[Kept]:
    """What a block, perhaps the `first` of a stage that is not the first, keeps of one micro-batch
    in each of WAYS, and how much longer that takes."""
    seconds = [costs.block(block, again).inputs for again in WAYS]
    *kept, inputs = block_activations(block, costs.model, setting)
    apart = input_apart(block, costs.model, setting) if first else 0.0
    sizes = [*(each + apart for each in kept), inputs]
    return [Kept(n, each - seconds[0]) for n, each in zip(sizes, seconds, strict=True)]


def _patterns(model: Model, chosen: list[str]) -> tuple[str, ...]:
    """The patterns of module paths that name these blocks."""
    if all(what == WHOLE for what in chosen):
        return ("blocks",)
    family = 0 if model.positions else 1
    ends = {WHOLE: "", CORE: f".{ATTENTIONS[family]}.attend"}
    return tuple(
        f"{BLOCK_PATHS[family].format(n)}{ends[what]}" for n, what in enumerate(chosen) if what
    )
