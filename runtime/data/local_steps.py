"""Local steps for slow links: replicas train on their own, and agree once every few steps.

Stich, "Local SGD converges fast and communicates little" (2019): the replicas' parameters are
averaged every few steps. Douillard et al., "DiLoCo: distributed low-communication training of
language models" (2023), algorithm 1: the average of the replicas' changes is used as a gradient,
with which an outer optimizer (Nesterov's momentum) moves the parameters of the last agreement.
Averaging is this with a learning rate of 1 and no momentum.
"""

import time
from collections.abc import Sequence

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import xp
from ringlet.nn.flat import Flat
from ringlet.runtime.device_collectives import Pending, all_reduce


class OuterOptimizer:
    """Agrees on parameters over `group`, whose ranks train on their own between two `agree()`.

    `momenta` are the same on all ranks, one for each of the flat parameters.
    """

    def __init__(
        self, flats: Sequence[Flat], group: Group, learning_rate: float, momentum: float
    ) -> None:
        self._flats, self._group = flats, group
        self.learning_rate, self.momentum = learning_rate, momentum
        self._anchors = [xp.empty(flat.size, flat.dtype) for flat in flats]
        count = len(flats) if momentum else 0
        self.momenta = [xp.zeros(flat.size, flat.dtype) for flat in flats[:count]]
        self.restart()

    def restart(self) -> None:
        """Begin a round at the present parameters, on which all replicas agree."""
        for flat, anchor in zip(self._flats, self._anchors, strict=True):
            for start, stop in flat.segments:
                anchor[start:stop] = flat.views(start, stop)[0]

    def agree(self) -> float:
        """End a round with the same parameters on all ranks (a collective); return the seconds."""
        started = time.perf_counter()
        works: list[tuple[int, int, int, Array, Pending]] = []
        for number, (flat, anchor) in enumerate(zip(self._flats, self._anchors, strict=True)):
            for start, stop in flat.segments:
                change = anchor[start:stop] - flat.views(start, stop)[0]
                work = all_reduce(
                    self._group, change, "mean", async_op=True, label="outer gradients"
                )
                works.append((number, start, stop, change, work))
        for number, start, stop, change, work in works:
            work.wait()
            self._step(number, start, stop, change)
        return time.perf_counter() - started

    def _step(self, number: int, start: int, stop: int, change: Array) -> None:
        anchor = self._anchors[number][start:stop]
        if self.momentum:
            momentum = self.momenta[number][start:stop]
            momentum *= self.momentum
            momentum += change
            change += self.momentum * momentum  # Nesterov: where the momentum will lead
        anchor -= self.learning_rate * change
        self._flats[number].views(start, stop)[0][...] = anchor
