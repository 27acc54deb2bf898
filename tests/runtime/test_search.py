"""The planner's searches against trying everything."""

import itertools
import random
from dataclasses import replace

import pytest

from ringlet.runtime.mesh import mesh_text
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.activations import moments
from ringlet.runtime.pipeline.schedule_file import write_schedule
from ringlet.runtime.pipeline.schedules import known_schedule, make_schedule
from ringlet.runtime.planning.cluster import load_cluster
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.models import MODELS, gpt, llama
from ringlet.runtime.planning.recompute import fitted, needed, needed_at_least
from ringlet.runtime.planning.search import OBJECTIVES, Candidate, search
from ringlet.runtime.planning.setting import MEGATRON, RINGLET
from ringlet.runtime.planning.settings import Bounds, Request, families, meshes, settings
from ringlet.runtime.planning.simulate import simulate
from ringlet.runtime.planning.stages import Kept, balanced, knapsack

LAPTOP = load_cluster("laptop")
LAPTOP16 = replace(LAPTOP, device=replace(LAPTOP.device, peak={"float32": 1e11, "float16": 1e11}))
ROUNDED = 1 + 1e-12
SMALL = gpt("small", 4, 64, 4, vocabulary=512, context=64, dropout=False)
EXPERTS = gpt("experts", 2, 64, 4, vocabulary=512, context=64, dropout=False, experts=4)
GROUPED = llama("grouped", 3, 64, 4, 128, kv_heads=2, vocabulary=512, context=64)


def slowest(times, sizes, first, last):
    stops = list(itertools.accumulate(sizes))
    stages = [sum(times[stop - size : stop]) for size, stop in zip(sizes, stops, strict=True)]
    stages[0] += first
    stages[-1] += last
    return max(stages)


def with_ends(times, first, last):
    times = list(times)
    times[0] += first
    times[-1] += last
    return times


def cuts(blocks, stages):
    for inner in itertools.combinations(range(1, blocks), stages - 1):
        yield [stop - start for start, stop in itertools.pairwise((0, *inner, blocks))]


@pytest.mark.parametrize("seed", range(20))
def test_stages_are_cut_as_well_as_any_cut(seed):
    draw = random.Random(seed)
    for _ in range(20):
        blocks = draw.randint(1, 8)
        stages = draw.randint(1, blocks)
        times = [draw.choice([1, 1, 2, 3.3]) for _ in range(blocks)]
        first, last = draw.choice([0, 1, 2.5]), draw.choice([0, 1, 4.5])
        found = balanced(with_ends(times, first, last), stages)
        assert min(found) >= 1
        assert (sum(found), len(found)) == (blocks, stages)
        best = min(slowest(times, sizes, first, last) for sizes in cuts(blocks, stages))
        assert slowest(times, found, first, last) == pytest.approx(best)


def test_equal_blocks_are_cut_evenly_and_what_is_left_over_comes_last():
    assert balanced([1.0] * 8, 4) == (2, 2, 2, 2)
    assert balanced([1.0] * 10, 4) == (2, 2, 3, 3)
    assert balanced(with_ends([1.0] * 8, 0, 2), 2) == (5, 3)
    with pytest.raises(ValueError, match="3 stages need as many blocks; there are 2"):
        balanced([1.0, 1.0], 3)


@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_recomputed_as_well_as_by_any_choice(seed):
    draw = random.Random(seed)
    for _ in range(10):
        kinds = [
            [Kept(10, 0), Kept(6, 1), Kept(1, draw.choice([2, 5]))],
            [Kept(7, 0), Kept(2, 3), Kept(1, 4)],
        ]
        blocks = [draw.choice(kinds) for _ in range(draw.randint(1, 5))]
        room = draw.uniform(0, 60)

        def totals(choice, blocks=blocks):
            ways = [block[way] for block, way in zip(blocks, choice, strict=True)]
            return sum(way.nbytes for way in ways), sum(way.seconds for way in ways)

        every = map(totals, itertools.product(range(3), repeat=len(blocks)))
        fitting = [seconds for nbytes, seconds in every if nbytes <= room]
        found = knapsack(blocks, room)
        if found is None:
            assert not fitting
        else:
            assert totals(found)[0] <= room
            assert totals(found)[1] == min(fitting)


def everything(request):
    """All settings that the rules allow, with equal and with balanced stages, simulated."""
    for mesh, problem in meshes(request):
        for setting in () if problem else settings(request, mesh):
            blocks = len(request.model.blocks)
            for sizes in cuts(blocks, setting.stages) if setting.stages > 1 else [()]:
                options = replace(setting.options, layers_per_stage=tuple(sizes))
                cut = replace(setting, options=options)
                if needed(request.model, cut) <= request.limit:
                    yield Candidate(cut, simulate(request.model, request.cluster, cut))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("model", "ranks", "batch"),
    [
        (SMALL, 2, 4),
        (EXPERTS, 4, 4),
        (GROUPED, 2, 6),
        pytest.param(SMALL, 4, 8, marks=pytest.mark.slow),
        pytest.param(GROUPED, 4, 4, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_search_finds_what_trying_everything_finds(model, ranks, batch, objective):
    request = Request(model, LAPTOP.of(ranks), batch, ranks)
    key = OBJECTIVES[objective]
    best = min(map(key, everything(request)))
    found = search(request, objective)
    assert found.complete
    assert key(found.best[0])[0] == pytest.approx(best[0])


@pytest.mark.parametrize("program", [RINGLET, MEGATRON], ids=["ringlet", "megatron"])
@pytest.mark.parametrize(
    ("model", "ranks", "memory"),
    [
        (GROUPED, 2, 0),
        (SMALL, 2, 3e6),
        pytest.param(SMALL, 4, 2e6, marks=pytest.mark.slow),
        pytest.param(EXPERTS, 4, 0, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_bound_holds_and_the_ten_best_are_those_of_all(model, ranks, memory, program):
    """From the loosest bound, which needs no cut of the stages, to the step."""
    request = Request(model, LAPTOP16.of(ranks), 8, ranks, memory=memory, program=program)
    bounds = Bounds(request, Fabric(request.cluster))
    times = []
    for mesh, problem in meshes(request):
        for family in () if problem else families(request, mesh):
            _, loose = bounds.expected(family.first)
            for cut, bound in bounds.cuts(family.first):
                assert loose <= bound * ROUNDED
                for setting in family.members(cut):
                    least = needed_at_least(model, setting, free=True)
                    assert least <= needed(model, setting)
                    costs = bounds.costs(setting)
                    assert bound <= bounds.of_step(costs) * ROUNDED
                    fits, _ = fitted(costs, request.limit, free=True)
                    if fits is not None:
                        assert least <= needed(model, fits) <= request.limit
                        made = simulate(model, request.cluster, fits)
                        assert bounds.of_step(bounds.costs(fits)) <= made.seconds
                        times.append(made.seconds)
    found = search(request)
    assert found.complete
    assert [one.simulation.seconds for one in found.best] == pytest.approx(sorted(times)[:10])


def test_a_search_over_many_ranks_simulates_few_settings():
    """And makes schedules for few: the rest is excluded by formulas."""
    moments.cache_clear()
    known_schedule.cache_clear()
    request = Request(
        MODELS["llama-7b"], load_cluster("selene"), 512, 1024, program=MEGATRON, fixed={"cp": 1}
    )
    found = search(request)
    assert found.complete
    assert found.listed > 8000
    assert found.simulated <= 120
    assert 0 < known_schedule.cache_info().misses <= 40


def test_a_limit_of_memory_is_kept_by_recomputing_no_more_than_it_takes():
    request = Request(SMALL, LAPTOP.of(1), 8, 1, fixed={"micro_batch": 8})
    free = search(request).best[0]
    assert free.setting.options.recompute == ()
    times = [free.simulation.seconds]
    for part in (0.9, 0.8, 0.7):
        limit = part * free.memory
        found = search(replace(request, memory=limit)).best[0]
        assert found.memory <= limit
        assert found.setting.options.recompute
        times.append(found.simulation.seconds)
    assert times == sorted(times)


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-v"])
def test_a_limit_is_kept_by_every_rank_of_a_pipeline(schedule):
    fixed = {"pp": 2, "micro_batch": 1, "schedule": schedule}
    request = Request(SMALL, LAPTOP.of(2), 8, 2, fixed=fixed)
    most, fitting = search(request).best[0].memory, 0
    for part in range(60, 100, 2):
        limit = part / 100 * most
        best = search(replace(request, memory=limit)).best
        assert all(one.memory <= limit for one in best)
        fitting += bool(best)
    assert fitting > 2


def test_where_nothing_fits_the_nearest_setting_is_told():
    found = search(Request(SMALL, LAPTOP.of(2), 4, 2, memory=1e5))
    assert found.best == []
    setting, nbytes = found.nearest
    assert nbytes > 1e5
    assert search(Request(SMALL, LAPTOP.of(2), 4, 2, memory=nbytes)).best
    assert not search(Request(SMALL, LAPTOP.of(2), 4, 2, memory=0.99 * nbytes)).best
    assert setting.options.recompute == ("blocks",)


@pytest.mark.parametrize(
    "fixed",
    [{"pp": 2}, {"zero": 1}, {"tp": 2, "sequence": True}, {"micro_batch": 1, "dp": 4}],
    ids=str,
)
def test_what_the_user_has_chosen_stays(fixed):
    for candidate in search(Request(SMALL, LAPTOP, 8, 4, fixed=fixed)).best:
        setting = candidate.setting
        known = {**setting.mesh, **vars(setting.options), "micro_batch": setting.micro_batch}
        assert {name: known[name] for name in fixed} == fixed


def test_a_schedule_file_is_tried_with_as_many_micro_batches_as_it_has():
    text = write_schedule(make_schedule("1f1b", 2, 4))
    options, fixed = Parallelism(schedule=text), {"schedule": text}
    found = search(Request(SMALL, LAPTOP, 12, 4, options=options, fixed=fixed))
    chosen = [candidate.setting for candidate in found.best]
    assert {mesh_text(setting.mesh) for setting in chosen} == {"tp=2, pp=2", "pp=2, cp=2"}
    assert {(setting.micro_batches, setting.micro_batch) for setting in chosen} == {(4, 3)}
    assert "4 micro-batches, not 6" in found.lost["dp=2, pp=2"]


def test_every_mesh_that_lost_has_its_reason():
    found = search(Request(SMALL, LAPTOP, 8, 4))
    kept = {mesh_text(candidate.setting.mesh) for candidate in found.best}
    made = {mesh_text(mesh) for mesh, _ in meshes(found.request)}
    assert kept | set(found.lost) == made
    assert "ep=4 shards experts, and the model has none" in found.lost["ep=4"]
    assert all(found.lost.values())
