"""What happens between the fences of a direct schedule, in the form in which `trace` has it."""

from ringlet.comm.schedules.direct import Combine, DirectStep, Read, Share, direct_steps
from ringlet.comm.schedules.prove import Transfer
from ringlet.comm.schedules.prove_direct import (
    OWN,
    Memory,
    moves_in_place,
    plan_of,
    prove_direct,
    start_of,
    stretches,
)
from ringlet.comm.schedules.schedule import Schedule
from ringlet.comm.schedules.symbols import contributions_after
from ringlet.comm.schedules.trace import State, Trace


def trace_direct(operation: str, size: int, root: int = 0) -> Trace:
    """Follow the schedule; raises ScheduleError as `prove_direct` does.

    A round is what happens between two fences. A transfer is what one rank reads in another's
    memory, or stores there.
    """
    prove_direct(operation, size, root)
    plan = plan_of(operation, size, root, "shared_memory")
    memory = start_of(plan, 1, OWN)
    by_rank = [list(stretches(direct_steps(operation, rank, size, root))) for rank in range(size)]
    states, transfers = [_state(plan, memory)], list[Transfer]()
    for number in range(len(by_rank[0])):
        if not any(own[number] for own in by_rank):
            continue
        # Nobody uses what another writes, so one rank after the other is right.
        for rank, own in enumerate(by_rank):
            for step in own[number]:
                transfers += _transfers(step, rank, size, len(states))
                for move in moves_in_place(step, rank, size, OWN):
                    value = frozenset().union(*(memory[source] for source in move.sources))
                    memory |= dict.fromkeys(move.targets, value)
        states.append(_state(plan, memory))
    promised = tuple(contributions_after(plan))
    ordered = sorted(transfers, key=lambda t: (t.round, t.sender, t.receiver, t.source))
    return Trace(plan, tuple(ordered), tuple(states), promised)


def _state(plan: Schedule, memory: Memory) -> State:
    return tuple(
        tuple(memory.get((rank, OWN, 0, slot)) for slot in range(plan.slots))
        for rank in range(plan.size)
    )


def _transfers(step: DirectStep, rank: int, size: int, round_: int) -> list[Transfer]:
    """What a rank's step moves between ranks."""
    others = [peer for peer in range(size) if peer != rank]
    if isinstance(step, Read):
        return [Transfer(round_, step.peer, step.source, rank, step.slot, False)]
    found = []
    if isinstance(step, Combine | Share):
        found += [Transfer(round_, peer, step.slot, rank, step.slot, True) for peer in others]
    if isinstance(step, Share):
        found += [Transfer(round_, rank, step.slot, peer, step.slot, False) for peer in others]
    return found
