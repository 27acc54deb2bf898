"""Whether operations are being recorded for a backward pass."""

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar, overload

__all__ = ["enable_grad", "inference_mode", "is_grad_enabled", "no_grad", "set_grad_enabled"]

P = ParamSpec("P")
R = TypeVar("R")


class Mode(threading.local):
    """Each thread's own."""

    grad = True


mode = Mode()


class Recording:
    """Whether to record inside a `with` block, or in the calls of a function that it decorates; in
    those of a generator while its own code runs."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(mode.grad)
        mode.grad = self.enabled

    def __exit__(self, *error: object) -> None:
        mode.grad = self._before.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        enabled, is_generator = self.enabled, inspect.isgeneratorfunction(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> Any:
            with Recording(enabled):
                result: Any = function(*args, **kwargs)
            return _steps(result, enabled) if is_generator else result

        return run


def _steps(generator: Generator[Any, Any, Any], enabled: bool) -> Generator[Any, Any, Any]:
    """The generator, run in this mode; between its steps the caller's own holds."""
    step: Callable[[Any], Any] = generator.send
    value: Any = None
    try:
        while True:
            with Recording(enabled):
                result = step(value)
            try:
                step, value = generator.send, (yield result)
            except BaseException as error:  # which the generator may handle
                step, value = generator.throw, error
    except StopIteration as end:
        return end.value


@overload
def no_grad() -> Recording: ...
@overload
def no_grad(function: Callable[P, R]) -> Callable[P, R]: ...
def no_grad(function: Any = None) -> Any:
    """Record nothing inside the block: results need no gradient and keep no history."""
    return Recording(False) if function is None else Recording(False)(function)


@overload
def enable_grad() -> Recording: ...
@overload
def enable_grad(function: Callable[P, R]) -> Callable[P, R]: ...
def enable_grad(function: Any = None) -> Any:
    """Record operations inside the block, even within `no_grad()`."""
    return Recording(True) if function is None else Recording(True)(function)


def inference_mode(mode: Any = True) -> Any:
    """`no_grad()`; with False nothing changes."""
    if not isinstance(mode, bool):
        return no_grad(mode)  # a function, decorated without parentheses
    return Recording(False) if mode else Recording(is_grad_enabled())


class set_grad_enabled(Recording):
    """Record operations from now on, or do not; as a block or decorator in it alone."""

    def __init__(self, mode: bool) -> None:
        super().__init__(mode)
        self._outside = is_grad_enabled()
        self._set(mode)

    def _set(self, enabled: bool) -> None:
        mode.grad = enabled

    def __enter__(self) -> None:
        self._set(self._outside)
        super().__enter__()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        self._set(self._outside)
        return super().__call__(function)


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return mode.grad
