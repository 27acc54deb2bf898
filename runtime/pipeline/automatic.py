"""Zero-bubble schedules that are searched for, under a limit of memory and for given times.

The heuristic of Qi et al., "Zero bubble pipeline parallelism", 2024 (arXiv 2401.10241), section
3.1. It builds a schedule in rounds, in each of which the stages take a forward, and then, from the
last to the first, a backward to the inputs. Backwards to the weights fill waits and make room.
Three choices are open; all eight schedules are made, and the fastest is taken.
"""

from collections.abc import Sequence
from itertools import count, product

from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.costs import Costs, Seconds, at

ROUNDING = 1e-9
"""The part by which sums may differ that are the same but for rounding."""


def automatic(
    ranks: int,
    micro_batches: int,
    costs: Costs,
    limit: Seconds,
    *,
    kept: float = 1.0,
    waits: bool = True,
    name: str = "automatic",
) -> PipelineSchedule:
    """The fastest schedule that the heuristic finds, with one stage on each rank.

    No stage holds more than `limit` (one number, or one by stage, 1 or more) times the activations
    of a micro-batch, of which the part `kept` (0 to 1) stays from the backward to the inputs until
    that to the weights. `waits` says that the ranks wait for one another between two steps, as for
    the norm of all gradients: then the makespan counts, otherwise the longest span of a rank.
    Raises ValueError for a limit or a part that cannot be.
    """
    limits = [at(limit, stage) for stage in range(ranks)]
    if min(limits) < 1 or not 0 <= kept <= 1:
        raise ValueError(f"a limit of {min(limits):g} and a kept part of {kept:g}; they must be at "
                         "least 1, and from 0 to 1")  # fmt: skip
    costs.check(ranks)
    best: _Search | None = None
    for choices in product((False, True), repeat=3):
        search = _Search(ranks, micro_batches, costs, limits, kept, *choices)
        search.run()
        if best is None or search.seconds(waits) < best.seconds(waits):
            best = search
    assert best is not None, "there are eight"
    return PipelineSchedule(name, ranks, 1, micro_batches, best.compute)


class _Search:
    """One schedule while it is made: every stage's clock, memory, waits and counts.

    `eager` takes one more forward before the first backward, which may come later for it. `skip`
    lets a stage that is ahead of the next one leave out a forward. `fill` puts a W into every wait,
    even if it is longer than the wait; otherwise only where the wait would be the longest of all.
    """

    def __init__(
        self,
        ranks: int,
        micro_batches: int,
        costs: Costs,
        limits: Sequence[float],
        kept: float,
        eager: bool,
        skip: bool,
        fill: bool,
    ) -> None:
        self._ranks, self._count, self._limits = ranks, micro_batches, limits
        self._eager, self._skip, self._fill = eager, skip, fill
        self._memory = {"F": 1.0, "I": kept - 1, "W": -kept}
        self._seconds = {
            kind: [costs.of(Action(kind, stage, 0)) for stage in range(ranks)] for kind in "FIW"
        }
        self._delays = [sum(costs.message(border)) for border in range(ranks - 1)]
        self._clock, self._waited, self._held = ([0.0] * ranks for _ in range(3))
        self._longest = 0.0  # of all waits
        self._ends: dict[str, list[list[float]]] = {k: [[] for _ in range(ranks)] for k in "FIW"}
        self._kinds: list[list[str]] = [[] for _ in range(ranks)]

    def seconds(self, waits: bool) -> tuple[float, float]:
        """The makespan and the longest span, what counts first."""
        firsts = (e[0] - s for e, s in zip(self._ends["F"], self._seconds["F"], strict=True))
        span = max(end - first for end, first in zip(self._clock, firsts, strict=True))
        return (max(self._clock), span) if waits else (span, max(self._clock))

    @property
    def compute(self) -> tuple[tuple[Action, ...], ...]:
        """What each rank computes."""
        numbers = [{kind: count() for kind in "FIW"} for _ in range(self._ranks)]
        return tuple(
            tuple(Action(kind, stage, next(numbers[stage][kind])) for kind in kinds)
            for stage, kinds in enumerate(self._kinds)
        )

    def run(self) -> None:
        """Take all actions."""
        stages = range(self._ranks)
        self._warm_up()
        for _ in range(1, self._count):
            forward = [self._wants_forward(stage) for stage in stages]
            for stage in reversed(stages[:-1]):
                forward[stage] &= forward[stage + 1]
            for stage in stages:
                if forward[stage]:
                    self._take_with_fillers("F", stage)
            for stage in reversed(stages):
                self._take_with_fillers("I", stage)
        for stage in stages:
            while self._has_weights(stage):
                self._take("W", stage)

    def _warm_up(self) -> None:
        """The first micro-batch goes there and back; other forwards fill the wait for it.

        Each stage takes fewer of them than the one before, which has to provide them.
        """
        stages = range(self._ranks)
        for stage in stages:
            self._take("F", stage)
        back = self._clock[-1] + self._seconds["I"][-1]  # when the gradient leaves a stage
        more = [0] * self._ranks
        for stage in reversed(stages[:-1]):
            clock, forward = self._clock[stage], self._seconds["F"][stage]
            gradient = back + self._delays[stage]
            room = min(self._count, int(self._limits[stage] + ROUNDING)) - 1
            while more[stage] < room and (
                not _by(gradient, clock) if self._eager else _by(clock + forward, gradient)
            ):
                more[stage] += 1
                clock += forward
            back = max(clock, gradient) + self._seconds["I"][stage]
        for stage in stages[1:]:
            before = more[stage - 1]
            less = min(more[stage], before)
            more[stage] = less if less + 1 == self._count else min(less, max(0, before - 1))
        for stage in stages:
            for _ in range(more[stage]):
                self._take("F", stage)
        for stage in reversed(stages):
            self._take("I", stage)

    def _wants_forward(self, stage: int) -> bool:
        """Whether the stage takes a forward in this round."""
        taken, following = self._ends["F"], stage + 1
        if len(taken[stage]) == self._count:
            return False
        ahead = following == self._ranks or len(taken[stage]) - len(taken[following])
        if following == self._ranks or not self._skip or ahead < 2:
            return True
        after = self._seconds["F"][following] + self._seconds["I"][following]
        gradient = self._clock[following] + after + self._delays[stage]
        clock, needed = self._clock[stage], self._seconds["F"][stage] + self._for_room(stage)
        if _by(gradient, clock):
            return False
        return _by(clock + needed, gradient) or self._is_longest(gradient - clock, stage)

    def _is_longest(self, wait: float, stage: int) -> bool:
        """Whether the stage has waited longest of all if it waits so much more."""
        return not _by(self._waited[stage] + wait, self._longest)

    def _for_room(self, stage: int) -> float:
        """Seconds of the W that have to come before a forward, for its memory."""
        held, seconds = self._held[stage] + 1, 0.0
        waiting = len(self._ends["I"][stage]) - len(self._ends["W"][stage])
        for _ in range(waiting):
            if _by(held, self._limits[stage]):
                break
            held += self._memory["W"]
            seconds += self._seconds["W"][stage]
        return seconds

    def _take_with_fillers(self, kind: str, stage: int) -> None:
        """Take a forward or a backward, and before it the W that make room or fill the wait."""
        weights = self._seconds["W"][stage]
        while not _by(self._held[stage] + self._memory[kind], self._limits[stage]):
            self._take("W", stage)
        arrival = self._arrival(kind, stage)
        while self._has_weights(stage) and _by(self._clock[stage] + weights, arrival):
            self._take("W", stage)
        wait = arrival - self._clock[stage]
        if self._has_weights(stage) and wait > 0 and (self._fill or self._is_longest(wait, stage)):
            self._take("W", stage)
        if kind == "I" and not stage and len(self._ends["F"][0]) == self._count:
            while self._has_weights(0):  # nobody waits for the gradients of the first stage
                self._take("W", 0)
        self._take(kind, stage)

    def _has_weights(self, stage: int) -> bool:
        return len(self._ends["W"][stage]) < len(self._ends["I"][stage])

    def _arrival(self, kind: str, stage: int) -> float:
        """When the data for the stage's next F or I is there."""
        number = len(self._ends[kind][stage])
        if kind == "F" and stage:
            return self._ends["F"][stage - 1][number] + self._delays[stage - 1]
        if kind == "I" and stage + 1 < self._ranks:
            return self._ends["I"][stage + 1][number] + self._delays[stage]
        return 0.0

    def _take(self, kind: str, stage: int) -> None:
        clock = self._clock[stage]
        start = clock if kind == "W" else max(clock, self._arrival(kind, stage))
        if self._ends["F"][stage]:
            self._waited[stage] += start - clock
            self._longest = max(self._longest, self._waited[stage])
        self._clock[stage] = start + self._seconds[kind][stage]
        self._held[stage] += self._memory[kind]
        self._ends[kind][stage].append(self._clock[stage])
        self._kinds[stage].append(kind)


def _by(number: float, limit: float) -> bool:
    """Whether a number is at most the limit, up to rounding."""
    return number <= limit + ROUNDING * abs(limit)
