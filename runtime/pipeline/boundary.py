"""What goes from stage to stage is one array, also where blocks hand on several tensors."""

from collections.abc import Sequence

from ringlet.nn import Tensor
from ringlet.nn import functional as F


def join(state: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Tensors (B, T1, C), (B, T2, C), ... -> (B, T1 + T2 + ..., C)."""
    return F.cat(state, 1) if isinstance(state, tuple) else state


def divide(x: Tensor, lengths: Sequence[int] | None) -> Tensor | tuple[Tensor, ...]:
    """What was joined, whose parts have lengths in the ratio of `lengths`."""
    if lengths is None:
        return x
    parts, start, share = [], 0, sum(lengths) // x.shape[1]  # > 1 where sequences are cut
    for length in lengths:
        parts.append(x[:, start : start + length // share])
        start += length // share
    return tuple(parts)
