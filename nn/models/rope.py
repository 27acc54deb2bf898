"""How the rotary positions of a Llama are stretched to longer contexts: its `rope_scaling`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.backend import Array
from ringlet.nn.layers.positions import RotaryEmbedding

OPTIONS: Mapping[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "dynamic": ({"factor"}, set()),
    "yarn": (
        {"factor", "original_max_position_embeddings"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
    "llama3": (
        {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
        set(),
    ),
}
"""By rope_type: the options that it needs, and those that it may have."""


def check_scaling(scaling: Mapping[str, Any]) -> None:
    """Raise ValueError for a scaling that is not known, or lacks an option or has another's."""
    kind: Any = scaling.get("rope_type")
    if kind not in OPTIONS:
        raise ValueError(f"rope_type is {kind!r}; known are {', '.join(OPTIONS)}")
    needed, possible = OPTIONS[kind]
    if missing := needed - set(scaling):
        raise ValueError(f"the rope_type {kind} needs {', '.join(sorted(missing))}")
    if others := set(scaling) - needed - possible - {"rope_type"}:
        raise ValueError(f"the rope_type {kind} has no {', '.join(sorted(others))}")
    for name, value in scaling.items():
        kinds = (bool,) if name == "truncate" else (str,) if name == "rope_type" else (int, float)
        if type(value) not in kinds or (name == "factor" and not value >= 1):
            raise ValueError(f"the rope_type {kind} has {name} {value!r}")


def rotary_positions(
    width: int, theta: float, scaling: Mapping[str, Any] | None, context: int
) -> RotaryEmbedding:
    """The rotary positions of heads of this width, stretched beyond a context as `scaling` says.

    "linear" divides all angles by `factor`. "llama3" divides those that turn less than
    `low_freq_factor` times in the original context, keeps those above `high_freq_factor`, and
    interpolates in between (Llama 3.1's reference code). For "yarn" see `yarn`, for "dynamic"
    `DynamicRotaryEmbedding`.
    """
    scaling = scaling or {"rope_type": "default"}
    check_scaling(scaling)
    if not 0 < theta < math.inf:
        raise ValueError(f"rope_theta {theta}")
    kind, factor = scaling["rope_type"], float(scaling.get("factor", 1))
    if kind == "default":
        return RotaryEmbedding(width, theta)
    if kind == "dynamic":
        return DynamicRotaryEmbedding(width, theta, factor, context)
    plain = F.rotary_frequencies(width, theta)
    if kind == "linear":
        return RotaryEmbedding(width, frequencies=plain / factor)
    if kind == "yarn":
        return yarn(plain, theta, factor, scaling)
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return RotaryEmbedding(width, frequencies=kept * plain + (1 - kept) * plain / factor)


def longest_context(scaling: Mapping[str, Any] | None, context: int) -> int:
    """The positions that a model has, whose config says `context`: "dynamic" and "yarn" may name
    the original context there."""
    scaling = scaling or {}
    if scaling.get("rope_type") not in ("dynamic", "yarn"):
        return context
    original = scaling.get("original_max_position_embeddings", context)
    return max(context, int(scaling["factor"] * original))


def yarn(plain: Array, theta: float, factor: float, scaling: Mapping[str, Any]) -> RotaryEmbedding:
    """Pairs that turn more than `beta_fast` times in the original context keep their angles, those
    below `beta_slow` are divided by `factor`, with a ramp by the pairs' numbers in between; the
    scores grow with the logarithm of the factor. Peng et al., "YaRN: efficient context window
    extension of large language models" (2023), sections 3.2 to 3.4."""
    pairs, original = len(plain), scaling["original_max_position_embeddings"]
    ends = [
        pairs * math.log(original / (turns * 2 * math.pi)) / math.log(theta)
        for turns in (scaling.get("beta_fast", 32), scaling.get("beta_slow", 1))
    ]
    if scaling.get("truncate", True):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], 2 * pairs - 1)
    ramp = np.clip((np.arange(pairs) - low) / (high - low or 0.001), 0, 1)

    def growth(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1

    scale = growth(1)
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        scale = growth(scaling["mscale"]) / growth(scaling["mscale_all_dim"])
    stretched = plain * (1 - ramp) + plain / factor * ramp
    scale = scaling.get("attention_factor", scale)
    return RotaryEmbedding(2 * pairs, theta, frequencies=stretched, scale=scale)


class DynamicRotaryEmbedding(RotaryEmbedding):
    """Rotary positions whose base grows with the text, beyond `context` positions.

    "Dynamic NTK" scaling; described in Peng et al., "YaRN" (2023), section 3.3. Each row of a batch
    has angles for its own length.
    """

    def __init__(self, width: int, base: float, factor: float, context: int) -> None:
        super().__init__(width, base)
        self.factor, self.context = factor, context
        if width == 2:
            raise ValueError("a base that grows needs heads wider than 2")

    def tables(
        self, positions: Array | int, length: int, dtype: np.dtype[np.generic]
    ) -> tuple[Array, Array]:
        """Cosines and sines (..., T, width / 2) in texts that end with the last position."""
        where = (
            np.arange(positions, positions + length) if isinstance(positions, int) else positions
        )
        ends = np.maximum(where.max(axis=-1, keepdims=True, initial=0) + 1, self.context)
        growth = 1 + self.factor * (ends - self.context) / self.context
        bases = self.base * growth ** (self.width / (self.width - 2))
        angles = where[..., None] * bases[..., None] ** (-np.arange(0, self.width, 2) / self.width)
        return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
