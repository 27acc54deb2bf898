"""Clocks of the ranks of a schedule, and the ports through which their messages pass."""


class Clocks:
    """Each rank's time, and when its ports are free.

    A rank sends at most `ports` messages at a time, and receives as many.
    """

    def __init__(self, size: int, ports: int = 1) -> None:
        self.now = [0.0] * size
        self._sending = [[0.0] * ports for _ in range(size)]
        self._receiving = [[0.0] * ports for _ in range(size)]

    def send(self, rank: int, busy: float, duplex: bool = True) -> float:
        """Send a message that keeps a port busy for `busy` seconds; returns when it has left.

        Unless messages are `duplex`, nothing else passes meanwhile in either direction.
        """
        left = max(self.now[rank], self._free(rank, self._sending, duplex)) + busy
        self._occupy(rank, self._sending, duplex, left)
        return left

    def receive(self, rank: int, arrival: float, busy: float, duplex: bool = True) -> float:
        """Wait for a message that can arrive at `arrival`; returns when the rank has it."""
        there = max(arrival, self._free(rank, self._receiving, duplex) + busy)
        self._occupy(rank, self._receiving, duplex, there)
        self.now[rank] = max(self.now[rank], there)
        return there

    def compute(self, rank: int, seconds: float, duplex: bool = True) -> None:
        """Compute for that long; unless messages are `duplex`, none passes meanwhile."""
        self.now[rank] += seconds
        if not duplex:
            self._occupy(rank, self._sending, duplex, self.now[rank])

    def _free(self, rank: int, direction: list[list[float]], duplex: bool) -> float:
        if duplex:
            return direction[rank][0]
        return max(self._sending[rank][0], self._receiving[rank][0])

    def _occupy(self, rank: int, direction: list[list[float]], duplex: bool, until: float) -> None:
        for ports in (direction,) if duplex else (self._sending, self._receiving):
            own = ports[rank]
            own[0] = until  # the port that is free first
            if len(own) > 1:
                own.sort()


class Rounds:
    """Clocks on which every message takes one round.

    `together`: slots that are ready for the same peer at the same moment travel in one message.
    """

    def __init__(self, size: int, ports: int = 1, together: bool = False) -> None:
        self._clocks, self._together = Clocks(size, ports), together
        # By rank, the last message sent and received: (its group, its round). The slots of a group
        # have the same peer and were ready, or travelled, at the same time.
        self._sent: list[tuple[object, int]] = [(None, 0)] * size
        self._received: list[tuple[object, int]] = [(None, 0)] * size
        self.last = 0

    def now(self, rank: int) -> int:
        """The last round for which the rank has waited."""
        return round(self._clocks.now[rank])

    def send(self, rank: int, peer: int) -> int:
        """The round in which the message travels."""
        group = (peer, self._clocks.now[rank])
        if not self._together or self._sent[rank][0] != group:
            self._sent[rank] = group, round(self._clocks.send(rank, 1))
        return self._sent[rank][1]

    def receive(self, rank: int, peer: int, arrival: int) -> int:
        """The round after which the rank has the message."""
        group = (peer, arrival)
        if not self._together or self._received[rank][0] != group:
            self._received[rank] = group, round(self._clocks.receive(rank, arrival, 1))
        self.last = max(self.last, self._received[rank][1])
        return self._received[rank][1]
