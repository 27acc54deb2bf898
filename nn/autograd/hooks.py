"""Hooks of tensors and modules: functions that are called at a moment of theirs."""

from collections.abc import Callable
from typing import Any


class HookHandle:
    """Adds a hook to an object's tuple of hooks; `remove()` removes it again."""

    def __init__(self, owner: Any, kind: str, hook: Callable[..., Any]) -> None:
        self._owner, self._kind, self._hook = owner, kind, hook
        setattr(owner, kind, (*getattr(owner, kind), hook))

    def remove(self) -> None:
        """Stop calling the hook."""
        hooks = list(getattr(self._owner, self._kind))
        if self._hook in hooks:
            hooks.remove(self._hook)
        setattr(self._owner, self._kind, tuple(hooks))
