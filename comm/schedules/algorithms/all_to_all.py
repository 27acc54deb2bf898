"""All to all: every rank has a part for every other. Few messages, or little traffic."""

from ringlet.comm.schedules.schedule import Copy, Receive, Send, Step


def pairwise_all_to_all(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: `size` to send, then `size` received: slot p goes to rank p's slot size + r.

    In round k every rank sends to the one k further on, so that no two send to the same rank.
    """
    steps: list[Step] = [Copy(rank, size + rank)]
    for distance in range(1, size):
        to, source = (rank + distance) % size, (rank - distance) % size
        steps.append(Send(to, to))
        steps.append(Receive(source, size + source))
    return steps


def bruck_all_to_all(rank: int, size: int, root: int = 0) -> list[Step]:
    """The same slots, all of one length; ceil(log2(size)) rounds of at most size / 2 slots each.

    Bruck et al., "Efficient algorithms for all-to-all communications in multiport
    message-passing systems" (1997): a part that has d ranks to go travels the powers of two in
    d. On its way it rests where the part will lie that comes to this rank from d ranks back, so
    that neither scratch memory nor a rotation is needed.
    """
    steps: list[Step] = [Copy(rank, size + rank)]
    hop = 1
    while hop < size:
        moving = [distance for distance in range(1, size) if distance & hop]
        for distance in moving:
            started_here = distance % hop == 0
            away = (rank + distance) % size if started_here else size + (rank - distance) % size
            steps.append(Send((rank + hop) % size, away))
        for distance in moving:
            steps.append(Receive((rank - hop) % size, size + (rank - distance) % size))
        hop *= 2
    return steps
