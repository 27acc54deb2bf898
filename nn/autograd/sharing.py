"""What tensors have for changes in place: who shares their memory, and the methods' names."""

import sys
from typing import Any, TypeVar

T = TypeVar("T")


def change_placeholder(x: T, /, *args: Any, **kwargs: Any) -> T:
    """Stands in for a method that changes its tensor until nn/methods.py replaces it."""
    raise NotImplementedError


class Sharing:
    """Memory that several tensors may share, with methods that change it (nn/in_place.py)."""

    __slots__ = ("_sharers",)

    _sharers: object | None
    """Held by all that share memory, and by nobody else: its references count them."""

    def join(self, other: "Sharing") -> None:
        """Say that the two share memory."""
        if other._sharers is None:
            other._sharers = object()
        self._sharers = other._sharers

    def shares_memory(self) -> bool:
        """Whether a tensor that shares this one's memory (a view, or its base) is alive."""
        return self._sharers is not None and sys.getrefcount(self._sharers) > 2

    add_ = sub_ = mul_ = div_ = pow_ = floor_divide_ = remainder_ = neg_ = change_placeholder
    exp_ = expm1_ = log_ = log2_ = log10_ = log1p_ = sqrt_ = rsqrt_ = change_placeholder
    square_ = reciprocal_ = sin_ = cos_ = tanh_ = sigmoid_ = erf_ = relu_ = change_placeholder
    abs_ = sign_ = floor_ = ceil_ = round_ = clamp_ = clip_ = cumsum_ = change_placeholder
    logical_and_ = logical_or_ = logical_xor_ = logical_not_ = change_placeholder
    masked_fill_ = scatter_ = scatter_add_ = index_fill_ = tril_ = triu_ = change_placeholder
    lerp_ = addcmul_ = addcdiv_ = copy_ = fill_ = zero_ = change_placeholder
    normal_ = uniform_ = bernoulli_ = exponential_ = change_placeholder
