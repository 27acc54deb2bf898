"""Run a pipeline's schedule: the fourth reader. It computes, and moves real activations.

One rank without a pipeline runs a schedule too: forward and backward of each micro-batch in turn.
"""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ringlet.comm import Group, Work
from ringlet.nn import Tensor, no_grad
from ringlet.nn import functional as F
from ringlet.nn.autograd.engine import WeightGradients, backward
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import asarray
from ringlet.runtime.compression.codecs import Codec
from ringlet.runtime.device_collectives import isend, recv
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule

StageBatch: TypeAlias = tuple[int, int]
"""(stage, micro-batch)"""

HEADER = 3 * 8
"""Bytes of a shape (B, T, C) in front of encoded numbers."""


class MicroBatch(NamedTuple):
    """Ids and targets (B, T) of some samples; `first_sample` is the first one's global number.

    A model with several inputs has a tuple of ids. `options` are what else the model takes, such
    as an attention_mask.
    """

    ids: Any
    targets: Array
    first_sample: int
    options: Mapping[str, Array] = MappingProxyType({})


class Stages(Protocol):
    """A model that is cut into stages, as much of it as this rank has."""

    def forward(self, stage: int, x: Tensor | None, batch: MicroBatch) -> Tensor:
        """A stage's result: what the next stage gets, or the summed loss. At first x is None."""

    def end_backward(self) -> None:
        """The gradients of one micro-batch have been added."""


class Transport:
    """Carries activations and their gradients between stages, encoded if there is a codec.

    There is no error feedback: what one micro-batch's activations lose does not concern the next.
    """

    def __init__(self, group: Group, codec: Codec | None = None) -> None:
        self._group, self._codec = group, codec

    def send(self, x: Array, rank: int, tag: int) -> Work:
        """Start to send; x must not change before the Work is waited for."""
        if self._codec is None:
            return isend(self._group, x, rank, tag)
        message = np.empty(HEADER + self._codec.nbytes(x.size), np.uint8)
        message[:HEADER].view(np.int64)[...] = x.shape
        self._codec.encode(x, message[HEADER:])
        return self._group.isend(message, rank, tag)

    def recv(self, rank: int, tag: int) -> Array:
        """Wait for an array."""
        if self._codec is None:
            return recv(self._group, rank, tag)
        message = self._group.recv(rank, tag)
        shape = tuple(message[:HEADER].view(np.int64).tolist())
        return self._codec.decode(message[HEADER:], np.empty(shape, np.float32))


class Executor:
    """Runs this rank's program of a schedule.

    `waited` counts the seconds in which it waited for other ranks.
    """

    def __init__(self, rank: int, schedule: PipelineSchedule, transport: Transport) -> None:
        self._rank, self._schedule, self._transport = rank, schedule, transport
        self.waited = 0.0

    def train(self, stages: Stages, batches: Sequence[MicroBatch], scale: float) -> float:
        """Forward and backward of every micro-batch; the sum of the losses of the last stage.

        `scale` is what the summed loss is multiplied by: the gradients are those of the product.
        """
        return _Run(self, self._schedule, stages, batches, scale).run(self._program())

    def evaluate(self, stages: Stages, batches: Sequence[MicroBatch]) -> float:
        """Forward of every micro-batch only; the sum of the losses of the last stage."""
        forward = [action for action in self._program() if action.kind in FORWARD]
        with no_grad():
            return _Run(self, self._schedule, stages, batches, 0.0).run(forward)

    def _program(self) -> Sequence[Action]:
        return self._schedule.programs[self._rank]

    def send(self, action: Action, x: Array) -> Work:
        """Start to send what the action says."""
        tag = self._tag(action.other_end)
        return self._transport.send(x, self._schedule.peer(action), tag)

    def receive(self, action: Action) -> Array:
        """Wait for what the action says."""
        started = time.perf_counter()
        array = self._transport.recv(self._schedule.peer(action), self._tag(action))
        self.waited += time.perf_counter() - started
        return array

    def _tag(self, receive: Action) -> int:
        number = receive.stage * self._schedule.micro_batches + receive.micro_batch
        return 2 * number + (receive.kind == "RECV_B")


FORWARD = ("F", "SEND_F", "RECV_F")


class _Run:
    """One step's memory: what has arrived, what waits for its backward, what is being sent."""

    def __init__(
        self,
        executor: Executor,
        schedule: PipelineSchedule,
        stages: Stages,
        batches: Sequence[MicroBatch],
        scale: float,
    ) -> None:
        self._executor, self._last = executor, schedule.stages - 1
        self._stages, self._batches, self._scale = stages, batches, scale
        self._arrived: dict[StageBatch, Array] = {}
        self._leaving: dict[StageBatch, Array] = {}
        self._inputs: dict[StageBatch, Tensor] = {}
        self._results: dict[StageBatch, Tensor] = {}
        self._weights: dict[StageBatch, WeightGradients] = {}
        self._sent: list[Work] = []
        self._losses: dict[int, float] = {}

    def run(self, program: Sequence[Action]) -> float:
        """Take all actions; the losses are added in the order of the micro-batches."""
        steps = {
            "F": self._forward, "B": self._backward,
            "I": self._inputs_only, "W": self._weights_only,
            "SEND_F": self._send, "SEND_B": self._send, "RECV_F": self._receive,
            "RECV_B": self._receive,
        }  # fmt: skip
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
            self._leaving[place] = result.data
        if self._scale:
            self._results[place] = result

    def _backward(self, action: Action) -> None:
        self._start_backward(action, None)
        self._stages.end_backward()

    def _inputs_only(self, action: Action) -> None:
        self._weights[action[1:]] = weights = WeightGradients()
        self._start_backward(action, weights)

    def _weights_only(self, action: Action) -> None:
        self._weights.pop(action[1:]).run()
        self._stages.end_backward()

    def _start_backward(self, action: Action, weights: WeightGradients | None) -> None:
        place = action[1:]
        result = self._results.pop(place)
        if action.stage == self._last:
            gradient = asarray(self._scale, result.dtype)
        else:
            gradient = self._arrived.pop(place)
        backward(result, gradient, weights)
        if action.stage:
            grad = self._inputs.pop(place).grad
            assert grad is not None, "a stage's result depends on its input"
            self._leaving[place] = grad

    def _send(self, action: Action) -> None:
        self._sent = [work for work in self._sent if not work.done()]
        self._sent.append(self._executor.send(action, self._leaving.pop(action[1:])))

    def _receive(self, action: Action) -> None:
        self._arrived[action[1:]] = self._executor.receive(action)


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
