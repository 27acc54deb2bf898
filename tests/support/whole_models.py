"""Models that are spread over a mesh, put together."""

import numpy as np

from ringlet.runtime.sharding.shard_spec import ShardSpec


def collected(parallel):
    """{name: (weights, gradients)} of the whole model, from what each rank owns; on every rank."""
    mine = []
    for family in parallel.gradient_groups:
        owned = set(family.owned(parallel.mesh, sharded=parallel.options.zero > 0))
        for slot in family.reducer.shard.slots:
            if slot.name in owned:
                spec = family.specs[slot.name]
                views = [v.copy() for v in family.reducer.shard.views(slot.start, slot.stop)]
                mine.append([slot.name, spec.to_json(), slot.first, *views])
    whole = {
        name: [np.full(shape, np.nan, np.float32) for _ in range(2)]
        for name, shape in parallel.shapes.items()
    }
    parts = {}
    for pieces in parallel.mesh.world.all_gather_object(mine):
        for name, place, first, *views in pieces:
            spec = ShardSpec.from_json(parallel.shapes[name], place)
            fresh = [np.full(spec.size, np.nan, np.float32) for _ in range(2)]
            for target, view in zip(parts.setdefault((name, spec), fresh), views, strict=True):
                assert np.isnan(target[first : first + view.size]).all()  # nothing is there twice
                target[first : first + view.size] = view
    for (name, spec), values in parts.items():
        for target, value in zip(whole[name], values, strict=True):
            spec.put(value, target)
    return whole
