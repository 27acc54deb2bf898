"""What all models here have in common: an embedding, blocks, a head and a loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np

from ringlet.nn.autograd.conversion import host_array
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.containers import ModuleList
from ringlet.nn.layers.basic import Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.losses import LogitsLoss, TokenCrossEntropyLoss
from ringlet.nn.module import Module, uninitialized
from ringlet.nn.random import generator

__all__ = ["LanguageModel"]

INITIAL_STD = 0.02
SHARD_BYTES = 5_000_000_000


class ModelFiles(Protocol):
    """How models of one class are stored; see nn/models/huggingface."""

    def load(self, kind: type[Any], folder: Path, strict: bool) -> Any:
        """A model of this class from a folder."""

    def open(self, kind: type[Any], folder: Path) -> Any:
        """The same without its values, and the arrays that hold them."""

    def config(self, values: Mapping[str, Any]) -> Any:
        """The model's config from the values of a config.json."""

    def save(self, model: Any, folder: Path, shard_bytes: int) -> None:
        """Write a model to a folder."""


class LanguageModel(Module):
    """A model made of `embed`, `blocks`, `head` and `loss`; the head is `features` and `output`.

    `forward` runs them in a row; a pipeline runs them on different processes, each of which has
    the ids and calls `for_blocks`. What passes from block to block is one tensor (B, T, C), or
    for a model with several inputs a tuple with one for each.
    """

    config: Any
    loss: Module
    lm_head: Linear
    context_length: int | None = None
    """The largest number of positions; None means no limit."""

    files: ClassVar[ModelFiles]
    """How Hugging Face's files differ from the model; set by nn/models/huggingface."""

    huggingface: Mapping[str, Any] = {}
    """The values of the config.json that the model was loaded with; they are saved again."""

    generation: Mapping[str, Any] = {}
    """The values of its generation_config.json, if there was one; they are saved again."""

    eos: tuple[int, ...] = ()
    """The ids that end a text, as those files say."""

    def __init__(self, config: Any, seed: int = 1337) -> None:
        """Each initial value depends on (seed, name) only."""
        self.config = config
        with uninitialized():
            self.build(config)
        self.loss = TokenCrossEntropyLoss()
        self.assign_paths()
        self.initialize(seed)

    def build(self, config: Any) -> None:
        """Create the parts of the model."""
        raise NotImplementedError

    def embed(self, ids: Any, positions: Any, *args: Any, **options: Any) -> Any:
        """Ids (B, T) at positions (T,) of their contexts -> (B, T, C)."""
        raise NotImplementedError

    def for_blocks(self, ids: Any, positions: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
        """What every block gets besides the tensor; it depends on the positions of ids alone."""
        return ()

    def advance(self, block: Module, x: Any, common: tuple[Any, ...], **cache: Any) -> Any:
        """What the next block gets, after this one."""
        return block(x, *common, **cache)

    @property
    def blocks(self) -> ModuleList | Sequence[Module]:
        """The layers, each (B, T, C) -> (B, T, C); a pipeline cuts between them."""
        raise NotImplementedError

    def features(self, x: Any) -> Tensor:
        """The last block's result, ready for the output layer: (B, T, C) -> (B, T, C)."""
        raise NotImplementedError

    @property
    def output(self) -> Module:
        """The linear layer that computes the logits: (B, T, C) -> (B, T, V)."""
        return self.lm_head

    def head(self, x: Any) -> Tensor:
        """(B, T, C) -> logits (B, T, V)."""
        return self.output(self.features(x))

    def forward(
        self,
        ids: Any,
        targets: Array | Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        caches: Sequence[KeyValueCache] | None = None,
        **options: Array,
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T); with targets (B, T) the cross-entropy in nats.

        Targets of -100 do not count. With caches (one for each block) the ids continue the earlier
        ones. Options are those of the model's `embed` and `for_blocks`. Raises ValueError for more
        positions than `context_length`, IndexError for an id or target outside the vocabulary.
        """
        ids = host_array(ids)
        start = caches[0].length if caches else 0
        positions = np.arange(start, start + ids.shape[1])
        return self.end(self.body(ids, positions, caches, **options), targets, reduction)

    def body(
        self, ids: Any, positions: Any, caches: Sequence[Any] | None = None, **options: Any
    ) -> Any:
        """From ids to what the last block gives."""
        common = self.for_blocks(ids, positions, **options)
        x = self.embed(ids, positions, **options)
        for number, block in enumerate(self.blocks):
            cache = {"cache": caches[number]} if caches else {}
            x = self.advance(block, x, common, **cache)
        return x

    def end(
        self, x: Any, targets: Array | Tensor | None, reduction: Literal["mean", "sum"]
    ) -> Tensor:
        """The logits of the last block's result, or with targets the loss. For the loss the logits
        are never held whole, unless a hook or another layer needs them."""
        if targets is None:
            return self.head(x)
        x, last = self.features(x), self.output
        if isinstance(self.loss, LogitsLoss) and self.loss.fuses(last):
            return self.loss(x, targets, reduction, last)
        return self.loss(last(x), targets, reduction)

    def caches(self) -> list[KeyValueCache]:
        """An empty cache for each block, to generate with."""
        return [KeyValueCache(self.context_length) for _ in self.blocks]

    def check_length(self, positions: Array) -> None:
        """Raise ValueError if there are more positions than the context has."""
        seen = int(positions.max(initial=-1)) + 1
        if self.context_length is not None and seen > self.context_length:
            raise ValueError(f"{seen} positions for a context of {self.context_length}")

    def initial_value(self, name: str, shape: tuple[int, ...], seed: int) -> Array:
        """Normal; normalizations start with ones, biases with zeros."""
        if len(shape) == 1 or name.endswith("bias"):
            return np.full(shape, name.endswith("weight"), np.float32)
        std = np.float32(self.initial_std(name))
        return generator(seed, name).standard_normal(shape, np.float32) * std

    def initial_std(self, name: str) -> float:
        """The deviation of a matrix's initial values."""
        return INITIAL_STD

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, strict: bool = True) -> Self:
        """The model in a folder with config.json and model.safetensors, or its shards and index.

        Weights become float32. The model is in evaluation mode: call `train()` to train it. With
        `strict=False` parameters that the files do not have get their initial values. A head of its
        own in the files of a tied model counts. Raises PretrainedError for another kind of model or
        a variant that is not supported, SafetensorsError for damaged files, KeyError listing arrays
        that are missing, unexpected or of the wrong shape.
        """
        return cls.files.load(cls, Path(folder), strict)

    def save_pretrained(self, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
        """Write config.json and model.safetensors, in shards of at most `shard_bytes` if larger.

        Raises FileExistsError if the folder holds a model already, PretrainedError for what
        Hugging Face's files cannot express, such as LoRA matrices that are not merged.
        """
        self.files.save(self, Path(folder), shard_bytes)
