"""What happens between the fences of a direct schedule, in the form in which `trace` has it."""

from ringlet.comm.schedules.direct import Place
from ringlet.comm.schedules.prove import Transfer
from ringlet.comm.schedules.prove_direct import Memory, prove_direct
from ringlet.comm.schedules.schedule import Schedule
from ringlet.comm.schedules.symbols import contributions_after
from ringlet.comm.schedules.trace import State, Trace


def trace_direct(operation: str, size: int, root: int = 0) -> Trace:
    """Follow the schedule; raises ScheduleError as `prove_direct` does.

    A round is what happens between two fences. A transfer is what one rank reads in another's
    memory, or stores there.
    """
    proof = prove_direct(operation, size, root)
    found = [
        Transfer(
            crossing.stretch,
            crossing.sender.rank,
            crossing.sender.slot,
            crossing.receiver.rank,
            crossing.receiver.slot,
            crossing.combined,
        )
        for crossing in proof.crossings
    ]
    ordered = sorted(found, key=lambda t: (t.round, t.sender, t.receiver, t.source))
    states = tuple(_state(proof.promise, memory) for memory in proof.states)
    return Trace(proof.promise, tuple(ordered), states, tuple(contributions_after(proof.promise)))


def _state(promise: Schedule, memory: Memory) -> State:
    return tuple(
        tuple(memory.get(Place(rank, slot)) for slot in range(promise.slots))
        for rank in range(promise.size)
    )
