"""A sharding plan says how a model is cut, as data.

It names the parts of a model that is a sequence of `embed`, `blocks`, `head` and `loss` (see
nn.models.language_model), and gives a style to each module that changes when tensors, sequences,
contexts or experts are sharded. A new model needs a new plan (see models.py) and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ringlet.nn import Module
from ringlet.runtime.sharding.sharder import Sharder
from ringlet.runtime.sharding.styles import Style


@dataclass(frozen=True)
class ShardingPlan:
    """The paths of a model's parts, and the styles of its modules by pattern of paths.

    `blocks` are the paths of lists of blocks, in order; `all_stages` is what every stage of a
    pipeline has.
    """

    embed: tuple[str, ...]
    blocks: tuple[str, ...]
    head: tuple[str, ...]
    styles: Mapping[str, Style]
    all_stages: tuple[str, ...] = ()

    def block_paths(self, model: Module) -> list[str]:
        """Where the blocks are, in order."""
        return [
            f"{path}.{name}" for path in self.blocks for name, _ in model.submodule(path).children()
        ]

    def apply(self, sharder: Sharder) -> None:
        """Replace the modules of a model that have a style."""
        found = [
            (path, module, style)
            for path, module in sharder.root.named_modules()
            for pattern, style in self.styles.items()
            if fnmatchcase(path, pattern)
        ]
        for path, module, style in found:
            parent, _, name = path.rpartition(".")
            setattr(sharder.root.submodule(parent), name, style.apply(module, sharder))
