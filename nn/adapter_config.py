"""The adapter_config.json of the peft library: which are plain LoRA, and their ranks and scales."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ringlet.nn.files import read_object, short

PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""Ways to draw the low-rank matrices that leave the others as they are (pissa, olora, corda, loftq
and lora_ga change them)."""

KNOWN = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern",
    "bias", "init_lora_weights",
    # What follows does not change what the matrices in the file mean.
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "target_modules", "exclude_modules", "fan_in_fan_out", "layers_to_transform",
    "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying",
}  # fmt: skip
"""What an adapter_config.json may say; anything else must be empty or false."""

NESTED = re.compile(r"\)[*+?{]|([*+{].*){4}", re.DOTALL)
"""Regular expressions that may take for ever: repeated groups, and many repetitions."""


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter_config.json says about each layer; patterns are those of layers' paths."""

    rank: int
    alpha: float
    dropout: float
    root: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    @classmethod
    def read(cls, path: Path) -> "AdapterConfig":
        """Raises ValueError for all but the plain LoRA, naming what it is not."""
        values = read_object(path, ValueError)
        if values.get("peft_type") != "LORA":
            raise ValueError(f"{path} is of a {short(values.get('peft_type'))}, not of a LORA")
        wrong = [key for key, value in values.items() if value and key not in KNOWN]
        if values.get("bias") not in (None, "none"):
            wrong.append("bias")
        if values.get("init_lora_weights") not in (None, True, False, *PLAIN_STARTS):
            wrong.append("init_lora_weights")
        if wrong:
            raise ValueError(
                f"{path} says {short(wrong[0])}: {short(values[wrong[0]])}, which ringlet does not "
                "support: merge the adapter with peft, or convert it to a plain LoRA there"
            )
        ranks, alphas = values.get("rank_pattern") or {}, values.get("alpha_pattern") or {}
        found = cls(
            values.get("r", 8), values.get("lora_alpha", 8), values.get("lora_dropout") or 0.0,
            bool(values.get("use_rslora")), ranks, alphas,
        )  # fmt: skip
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        """Raise ValueError for values that are no numbers, or out of range."""
        if not isinstance(self.ranks, dict) or not isinstance(self.alphas, dict):
            raise ValueError(f"{path} needs a rank_pattern and an alpha_pattern that are objects")
        for pattern in (*self.ranks, *self.alphas):
            if NESTED.search(pattern) or not _compiles(pattern):
                raise ValueError(f"{path}: ringlet does not support the pattern {short(pattern)}")
        for rank in (self.rank, *self.ranks.values()):
            if type(rank) is not int or not 0 < rank < 1 << 31:
                raise ValueError(f"{path} says rank {short(rank)}; it must be 1 or more")
        for alpha in (self.alpha, *self.alphas.values()):
            if type(alpha) not in (int, float) or not abs(alpha) < 1e30:
                raise ValueError(f"{path} says alpha {short(alpha)}; it must be a number")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(f"{path} says lora_dropout {short(self.dropout)}")

    def of(self, path: str) -> tuple[int, float]:
        """A layer's rank, and the alpha of which alpha / rank is its scale."""
        rank, alpha = (
            next(
                (x for pattern, x in given.items() if re.match(rf"(.*\.)?({pattern})$", path)),
                usual,
            )
            for given, usual in ((self.ranks, self.rank), (self.alphas, self.alpha))
        )
        return int(rank), float(alpha * math.sqrt(rank) if self.root else alpha)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
