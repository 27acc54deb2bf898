"""Find the operation that produced the first NaN, or changed a dtype, forward or backward."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import Cast
from ringlet.nn.autograd.deferred import Deferred, Gradients
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, to_host, xp
from ringlet.nn.module import Module
from ringlet.nn.watch import location, watching

__all__ = ["Anomaly", "detect_anomaly"]


class Anomaly(FloatingPointError):
    """An operation produced a NaN, or a dtype that none of its inputs has; the message names it."""


def detect_anomaly(infinite: bool = False) -> contextlib.AbstractContextManager[None]:
    """Check every operation inside the block, and the backward passes of what was recorded there.

    Raises Anomaly naming the operation and its module. `infinite` counts infinities as well (masks
    are often made of them). Takes about twice the time.
    """

    def watcher(
        operation: Operation, inputs: tuple[Tensor, ...], result: Tensor, around: list[Module]
    ) -> None:
        where = location(around)
        check = _Check(type(operation).__name__, where, infinite)
        check.forward(operation, [tensor.data for tensor in inputs], result.data)
        if result.operation is operation:
            _check_backward(operation, check)

    return watching(watcher)


class _Check:
    """The checks of one operation."""

    def __init__(self, name: str, where: str, infinite: bool) -> None:
        self._name, self._where, self._infinite = name, where, infinite

    def forward(self, operation: Operation, inputs: Sequence[Array], result: Array) -> None:
        for number, array in enumerate(inputs):
            self._values(array, f"was given {{}} (input {number})")
        self._values(result, "made the first {}")
        floats = [array.dtype for array in inputs if array.dtype.kind == "f"]
        if floats and result.dtype.kind == "f" and not isinstance(operation, Cast):
            self._dtype(result.dtype, np.result_type(*floats))

    def backward(self, grad: Array, parts: Sequence[Any], inputs: Sequence[Any]) -> None:
        self._values(grad, "was given {} by the backward pass")
        for number, (part, tensor) in enumerate(zip(parts, inputs, strict=True)):
            if part is not None:
                self._values(part, f"made the first {{}} of backward (for input {number})")
                if tensor.dtype.kind == "f":
                    self._dtype(part.dtype, tensor.dtype)

    def _values(self, array: Array, text: str) -> None:
        if array.dtype.kind not in "fc":
            return
        wrong = ~xp.isfinite(array) if self._infinite else xp.isnan(array)
        if wrong.any():
            wrong, array = to_host(wrong), to_host(array)
            at = tuple(map(int, np.argwhere(wrong)[0]))
            kind = "NaN" if np.isnan(array[at]) else "infinity"
            raise Anomaly(
                f"{self._name} {text.format(kind)}, {self._where}: {int(wrong.sum())} of shape "
                f"{array.shape}, the first at {at}"
            )

    def _dtype(self, dtype: np.dtype[Any], wanted: np.dtype[Any]) -> None:
        if dtype != wanted:
            raise Anomaly(f"{self._name} changed {wanted} to {dtype}, {self._where}")


def _check_backward(operation: Operation, check: _Check) -> None:
    """Make this operation's backward check itself."""

    def backward(grad: Array) -> Gradients:
        inputs = operation.inputs or ()
        parts = [
            part.value(tensor.shape, tensor.dtype) if isinstance(part, Deferred) else part
            for part, tensor in zip(type(operation).backward(operation, grad), inputs, strict=True)
        ]
        arrays = [None if part is None else xp.asarray(part) for part in parts]
        check.backward(grad, arrays, inputs)
        return arrays

    operation.backward = backward  # type: ignore[method-assign]
