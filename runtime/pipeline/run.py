"""Running a pipeline schedule, the fourth reader: it computes, and moves real activations.

A rank without a pipeline runs a schedule too: forward and backward of each micro-batch in turn.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ringlet.comm import Group, Work, timeline
from ringlet.nn import Tensor, no_grad
from ringlet.nn import functional as F
from ringlet.nn.autograd.engine import WeightGradients, backward
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import asarray, stand_in
from ringlet.runtime.compression.codecs import Codec
from ringlet.runtime.device_collectives import isend
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule

StageBatch: TypeAlias = tuple[int, int]
"""(stage, micro-batch)"""

HEADER = 3 * 8
"""Bytes of a shape (B, T, C) in front of encoded numbers."""


class MicroBatch(NamedTuple):
    """Ids and targets (B, T) of some samples; `first_sample` is the first one's global number.

    For a model with several inputs `ids` is a tuple; `options` are further ones (attention_mask).
    """

    ids: Any
    targets: Array
    first_sample: int
    options: Mapping[str, Array] = MappingProxyType({})


class Stages(Protocol):
    """This rank's part of a model that is cut into stages."""

    def forward(self, stage: int, x: Tensor | None, batch: MicroBatch) -> Tensor:
        """A stage's result, or the summed loss of the last; x is None for the first."""

    def end_backward(self) -> None:
        """The gradients of one micro-batch have been added."""


class Executor:
    """Runs this rank's program of a schedule; `waited` counts the seconds of waiting for others.

    With a codec activations and their gradients travel encoded. There is no error feedback: what
    one micro-batch's activations lose does not concern the next.
    """

    def __init__(
        self, rank: int, schedule: PipelineSchedule, group: Group, codec: Codec | None = None
    ) -> None:
        self.schedule, self._program = schedule, schedule.programs[rank]
        self._group, self._codec = group, codec
        self.waited = 0.0

    def train(self, stages: Stages, batches: Sequence[MicroBatch], scale: float) -> float:
        """Run forward and backward of every micro-batch; return the sum of the last stage's losses.

        The gradients are those of the summed loss times `scale`.
        """
        return _Run(self, stages, batches, scale).run(self._program)

    def evaluate(self, stages: Stages, batches: Sequence[MicroBatch]) -> float:
        """Run a schedule of forwards; return the sum of the last stage's losses."""
        with no_grad():
            return _Run(self, stages, batches, 0.0).run(self._program)

    def send(self, action: Action, x: Array) -> Work:
        """Start the transfer of a send action; x must not change before the Work is waited for."""
        peer, tag = self.schedule.peer(action), self._tag(action.other_end)
        if self._codec is None:
            return isend(self._group, x, peer, tag)
        message = np.empty(HEADER + self._codec.nbytes(x.size), np.uint8)
        message[:HEADER].view(np.int64)[...] = x.shape
        self._codec.encode(x, message[HEADER:])
        return self._group.isend(message, peer, tag)

    def receive(self, action: Action) -> Array:
        """Wait for the array of a receive action."""
        started = time.perf_counter()
        array = self._group.recv(self.schedule.peer(action), self._tag(action))
        self.waited += time.perf_counter() - started
        if self._codec is None:
            return asarray(array)
        shape = tuple(array[:HEADER].view(np.int64).tolist())
        return self._codec.decode(array[HEADER:], np.empty(shape, np.float32))

    def _tag(self, receive: Action) -> int:
        number = receive.stage * self.schedule.micro_batches + receive.micro_batch
        return 2 * number + (receive.kind == "RECV_B")


class _Run:
    """The memory of one step: what has arrived, awaits its backward, or is being sent."""

    def __init__(
        self, executor: Executor, stages: Stages, batches: Sequence[MicroBatch], scale: float
    ) -> None:
        self._executor, self._schedule = executor, executor.schedule
        self._last = executor.schedule.stages - 1
        self._stages, self._batches, self._scale = stages, batches, scale
        self._arrived: dict[StageBatch, Array] = {}
        self._leaving: dict[StageBatch, Array] = {}
        self._inputs: dict[StageBatch, Tensor] = {}
        self._results: dict[StageBatch, Tensor] = {}
        self._weights: dict[StageBatch, WeightGradients] = {}
        self._sent: list[Work] = []
        self._losses: dict[int, float] = {}

    def run(self, program: Sequence[Action]) -> float:
        """Take all actions; losses are added in the order of the micro-batches."""
        steps: dict[str, Callable[[Action], None]] = {
            "F": self._forward, "B": self._backward, "I": self._backward, "W": self._weights_only,
            "SEND_F": self._send, "SEND_B": self._send, "RECV_F": self._receive,
            "RECV_B": self._receive,
        }  # fmt: skip
        if timeline.current is not None:
            steps = {kind: _recorded(take) for kind, take in steps.items()}
        for action in program:
            steps[action.kind](action)
        for work in self._sent:
            work.wait()
        return sum((self._losses[number] for number in sorted(self._losses)), 0.0)

    def _forward(self, action: Action) -> None:
        place, batch = action[1:], self._batches[action.micro_batch]
        x = None
        if action.stage:
            x = Tensor(self._arrived.pop(place))
            x.requires_grad = bool(self._scale)
            self._inputs[place] = x
        result = self._stages.forward(action.stage, x, batch)
        if action.stage == self._last:
            self._losses[action.micro_batch] = float(result.item())
        else:
            self._pass_on(action, result.data)
            # Backward needs its history alone: no memory until then.
            result.data = stand_in(result.shape, result.dtype)
        if self._scale:
            self._results[place] = result

    def _backward(self, action: Action) -> None:
        place, weights = action[1:], WeightGradients() if action.kind == "I" else None
        result = self._results.pop(place)
        if action.stage == self._last:
            gradient = asarray(self._scale, result.dtype)
        else:
            gradient = self._arrived.pop(place)
        backward(result, gradient, weights)
        if action.stage:
            grad = self._inputs.pop(place).grad
            assert grad is not None, "a stage's result depends on its input"
            self._pass_on(action, grad)
        if weights is None:
            self._stages.end_backward()
        else:
            self._weights[place] = weights

    def _pass_on(self, action: Action, x: Array) -> None:
        """Keep what an action has made: for its send, or for the next stage if that is here."""
        if self._schedule.transfer(action, "SEND"):
            self._leaving[action[1:]] = x
        else:
            step = 1 if action.kind == "F" else -1
            self._arrived[action.stage + step, action.micro_batch] = x

    def _weights_only(self, action: Action) -> None:
        self._weights.pop(action[1:]).run()
        self._stages.end_backward()

    def _send(self, action: Action) -> None:
        self._sent = [work for work in self._sent if not work.done()]
        self._sent.append(self._executor.send(action, self._leaving.pop(action[1:])))

    def _receive(self, action: Action) -> None:
        self._arrived[action[1:]] = self._executor.receive(action)


def _recorded(take: Callable[[Action], None]) -> Callable[[Action], None]:
    def recorded(action: Action) -> None:
        with timeline.span(*action):
            take(action)

    return recorded


def join(state: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Make one tensor, as it travels between stages, of several: (B, T1 + T2 + ..., C)."""
    return F.cat(state, 1) if isinstance(state, tuple) else state


def divide(x: Tensor, lengths: Sequence[int] | None) -> Tensor | tuple[Tensor, ...]:
    """Undo `join` of tensors whose lengths are in the ratio of `lengths`."""
    if lengths is None:
        return x
    parts, start, share = [], 0, sum(lengths) // x.shape[1]  # > 1 where sequences are sharded
    for length in lengths:
        parts.append(x[:, start : start + length // share])
        start += length // share
    return tuple(parts)
