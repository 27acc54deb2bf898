"""What calling a module does: its forward pass, the hooks around it, and recomputation."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

from ringlet.nn.autograd.backward_hooks import HookGradients, watch_backward
from ringlet.nn.autograd.grad_mode import is_grad_enabled
from ringlet.nn.autograd.hooks import HookHandle
from ringlet.nn.autograd.recompute import checkpoint

ForwardPreHook: TypeAlias = Callable[[Any, tuple[Any, ...]], Any]
ForwardHook: TypeAlias = Callable[[Any, tuple[Any, ...], Any], Any]
BackwardHook: TypeAlias = Callable[[Any, HookGradients, HookGradients], None]


class Callee:
    """What of a module its call needs; Module adds what it contains."""

    path: str = ""
    """The module's path in the model, as in transformer.h.0.attn; set by the model's first call."""

    recompute: bool = False
    """Discard what the forward pass computes, and compute it again in backward."""

    _named = False
    _forward_pre_hooks: tuple[ForwardPreHook, ...] = ()
    _forward_hooks: tuple[ForwardHook, ...] = ()
    _backward_hooks: tuple[BackwardHook, ...] = ()

    def assign_paths(self) -> None:
        """Set the paths of this module and all inside it; this one is the root."""
        raise NotImplementedError

    def parameters(self) -> Iterator[Any]:
        """All that the module and those inside it learn."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's computation."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward` and the hooks. An error gets a note with the module's path."""
        if not self._named:
            self.assign_paths()
        for before in self._forward_pre_hooks:
            changed = before(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        try:
            if self._backward_hooks:
                run = partial(self._run, **kwargs)
                result = watch_backward(run, args, self._call_backward_hooks)
            else:
                result = self._run(*args, **kwargs)
        except (ValueError, IndexError, TypeError) as error:
            if not getattr(error, "__notes__", None):
                error.add_note(f"in {self.path or 'the model'} ({type(self).__name__})")
            raise
        for after in self._forward_hooks:
            changed = after(self, args, result)
            result = result if changed is None else changed
        return result

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.recompute and is_grad_enabled():
            return checkpoint(self, *args, forward=partial(self.forward, **kwargs))
        return self.forward(*args, **kwargs)

    def _call_backward_hooks(self, grad_inputs: HookGradients, grad_outputs: HookGradients) -> None:
        for hook in self._backward_hooks:
            hook(self, grad_inputs, grad_outputs)

    def register_forward_pre_hook(self, hook: ForwardPreHook) -> HookHandle:
        """Call `hook(module, arguments)` before each forward pass of this module; a result other
        than None replaces the arguments."""
        return HookHandle(self, "_forward_pre_hooks", hook)

    def register_forward_hook(self, hook: ForwardHook) -> HookHandle:
        """Call `hook(module, arguments, result)` after each forward pass; a result other than None
        replaces the module's."""
        return HookHandle(self, "_forward_hooks", hook)

    def register_full_backward_hook(self, hook: BackwardHook) -> HookHandle:
        """Call `hook(module, grad_inputs, grad_outputs)` in backward, once all inputs that require
        a gradient have theirs (arrays, or None). It must not change them."""
        return HookHandle(self, "_backward_hooks", hook)

    @property
    def is_watched(self) -> bool:
        """Whether a call does more than `forward`: hooks, or recomputation."""
        hooks = self._forward_pre_hooks or self._forward_hooks or self._backward_hooks
        return bool(hooks) or self.recompute
