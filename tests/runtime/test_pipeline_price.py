"""Prices of pipelines: the same as the kernel's, and those of published tables."""

import random

import pytest

from ringlet.comm.schedules.kernel import execute
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.costs import Costs, at
from ringlet.runtime.pipeline.formulas import Shape, bubble, least_of_any_cut, least_seconds, peaks
from ringlet.runtime.pipeline.price import Interval, price
from ringlet.runtime.pipeline.schedules import SCHEDULES, make_schedule


class KernelPricer:
    """A price by the kernel: a clock for each rank, links that are busy, queues in order."""

    def __init__(self, schedule, costs):
        self.schedule, self.costs = schedule, costs
        self.now = [0] * schedule.ranks
        self.intervals = [[] for _ in range(schedule.ranks)]
        self.free, self.arrived = {}, {}
        execute(schedule, schedule.programs, self)

    def compute(self, rank, action):
        self.until(rank, action, self.now[rank] + self.costs.of(action))

    def send(self, rank, action):
        transfer, latency = self.costs.message(min(action.stage, action.other_end.stage))
        link, queue = (rank, self.schedule.peer(action)), self.schedule.queue(rank, action)
        start = max(self.now[rank], self.free.get(link, 0))
        self.free[link] = start + transfer
        self.arrived[queue] = max(self.arrived.get(queue, 0), start + transfer + latency)
        self.intervals[rank].append(Interval(action, start, self.arrived[queue]))
        return self.arrived[queue]

    def receive(self, rank, action, arrival):
        self.until(rank, action, max(self.now[rank], arrival))

    def until(self, rank, action, end):
        self.intervals[rank].append(Interval(action, self.now[rank], end))
        self.now[rank] = end


def drawn_costs(draw, stages):
    """Whole numbers, each the same everywhere or one for each stage, or each border."""

    def cost(count, largest):
        values = [draw.randint(0, largest) for _ in range(count)]
        return draw.choice([values, draw.randint(0, largest)])

    messages = [cost(stages - 1, 3) for _ in range(2)] if draw.random() < 0.7 else [0, 0]
    return Costs(cost(stages, 9), cost(stages, 9), cost(stages, 9), *messages)


def assert_priced_as_by_the_kernel(schedule, costs):
    expected, priced = KernelPricer(schedule, costs), price(schedule, costs)
    assert priced.intervals == tuple(map(tuple, expected.intervals))
    assert priced.makespan == max(expected.now)
    kinds = "FBIW"
    for rank, intervals in enumerate(expected.intervals):
        own = [interval for interval in intervals if interval.action.kind in kinds]
        assert list(priced.computed(rank)) == own
        assert priced.busy[rank] == sum(end - start for _, start, end in own)
        assert priced.spans[rank] == own[-1].end - own[0].start
        for stage in schedule.stages_of(rank):
            ends = [end for action, _, end in own if action.stage == stage]
            assert priced.complete[stage] == ends[-1]


@pytest.mark.parametrize("seed", range(80))
def test_prices_are_the_kernels(seed):
    draw = random.Random(seed)
    name = draw.choice(list(SCHEDULES))
    schedule = make_schedule(name, draw.randint(1, 5), draw.randint(1, 9))
    assert_priced_as_by_the_kernel(schedule, drawn_costs(draw, schedule.stages))


def test_stages_anywhere_are_priced_as_by_the_kernel():
    """With two stages of a rank side by side, and messages that go back and forth."""
    compute = (
        (Action("F", 0, 0), Action("F", 3, 0), Action("B", 3, 0), Action("B", 0, 0)),
        (Action("F", 1, 0), Action("F", 2, 0), Action("B", 2, 0), Action("B", 1, 0)),
    )
    schedule = PipelineSchedule("written", 2, 2, 1, compute, (0, 1, 1, 0))
    assert_priced_as_by_the_kernel(schedule, Costs(1, 2, 3, [4, 50, 5], [6, 70, 7]))
    assert price(schedule, Costs(1, 2, 3, [4, 50, 5], [6, 70, 7])).makespan == 24 + 2 * (10 + 12)


def test_a_large_schedule():
    """What a planner prices by the hundred; with clocks of whole numbers, so that it is exact."""
    priced = price(make_schedule("1f1b", 64, 512), Costs(1, 1, 1, latency=0))
    assert priced.makespan == 3 * (512 + 63)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_is_faster_than_the_formula_allows(name):
    draw = random.Random(name)
    for _ in range(40):
        made = make_schedule(name, draw.randint(1, 5), draw.randint(1, 9))
        costs = drawn_costs(draw, made.stages)
        shape = Shape(name, made.ranks, made.micro_batches, made.chunks)
        assert least_seconds(shape, costs) <= price(made, costs).makespan
        whole = [
            sum(at(cost, stage) for stage in range(made.stages))
            for cost in (costs.forward, costs.inputs, costs.weights)
        ]
        assert least_of_any_cut(shape, *whole) <= least_seconds(shape, costs)
        equal = Costs(*(draw.randint(0, 9) for _ in range(3)))
        if name in ("gpipe", "1f1b"):
            assert least_seconds(shape, equal) == price(made, equal).makespan
        assert bubble(shape, 3, 4, 2) == bubble(made, 3, 4, 2)
        assert peaks(shape) == peaks(made)


WRONG = {
    "forward": (Costs([1, 2]), "forward has 2 numbers for 3 stages"),
    "transfer": (Costs(transfer=[1, 2, 3]), "transfer has 3 numbers for 2 borders between stages"),
    "latency": (Costs(latency=(1,)), "latency has 1 numbers for 2 borders between stages"),
}


@pytest.mark.parametrize("case", WRONG)
def test_costs_are_of_every_stage_or_border(case):
    costs, text = WRONG[case]
    with pytest.raises(ValueError, match=text):
        price(make_schedule("1f1b", 3, 4), costs)
