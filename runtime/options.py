"""The options of `parallelize`: how a model is spread over a mesh."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise

from ringlet.runtime.compression.automatic import AUTO
from ringlet.runtime.compression.codecs import Codec, make_codec
from ringlet.runtime.compression.schemes import parse
from ringlet.runtime.mesh import MeshError, share
from ringlet.runtime.pipeline.schedules import named, recipe_of


@dataclass(frozen=True)
class Parallelism:
    """Options of `parallelize` besides the mesh. Raises MeshError for a value that cannot be.

    `zero` is the stage of ZeRO; `schedule` (a name, or a file NAME.csv) and `chunks` (stages on
    each rank; 0: as few as the schedule needs) are the pipeline's, and `layers_per_stage` are the
    numbers of blocks in its stages, in the order of the model (none: nearly equally many).
    `sequence` shards activations between tensor-parallel layers along the sequence. `recompute`
    names modules whose forward pass is repeated in backward: "blocks", or patterns of paths.
    `bucket_bytes` is the size of gradient buckets; 0 chooses it from the measured link where that
    cannot change results (see data/bucket_size.py). With `priority` the first layers' gradients
    are sent before the last ones', and the next forward pass begins before all have arrived, which
    leaves no moment for clipping. With `local_steps` above 1 data-parallel replicas agree only
    after that many steps, with the outer optimizer's learning rate and momentum: 1 and 0 average,
    0.7 and 0.9 are DiLoCo's. `compress` names a compressor of gradients (auto: as the link is,
    see compression/automatic.py), `compress_activations` a codec for activations between layers and
    stages (see the package `compression`).

    What can be combined on which mesh is in rules.py.
    """

    zero: int = 0
    schedule: str = "1f1b"
    chunks: int = 0
    layers_per_stage: tuple[int, ...] = ()
    sequence: bool = False
    recompute: tuple[str, ...] = ()
    bucket_bytes: int = 0
    compress: str = ""
    compress_activations: str = ""
    priority: bool = False
    local_steps: int = 1
    outer_learning_rate: float = 1.0
    outer_momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.zero not in (0, 1, 2, 3):
            raise MeshError(f"there is no stage {self.zero} of ZeRO; there are 0 (none), 1, 2, 3")
        if self.bucket_bytes < 0:
            raise MeshError(f"bucket_bytes is {self.bucket_bytes}; it must be 0 (measured) or more")
        for name, least in (("chunks", 0), ("local_steps", 1)):
            if getattr(self, name) < least:
                raise MeshError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if min(self.layers_per_stage, default=1) < 1:
            raise MeshError(
                f"layers_per_stage has {min(self.layers_per_stage)}; a stage has at least one block"
            )
        try:
            object.__setattr__(self, "schedule", named(self.schedule))
            needed = recipe_of(self.schedule).chunks[0]
            object.__setattr__(self, "chunks", self.chunks or needed)
            if self.compress not in ("", AUTO):
                parse(self.compress)
            _ = self.codec
        except ValueError as error:
            raise MeshError(str(error)) from error

    def stages(self, blocks: int, ranks: int) -> list[range]:
        """The numbers of the blocks in each stage of a pipeline over so many ranks."""
        count = ranks * self.chunks
        sizes = self.layers_per_stage or [share(blocks, count, stage)[1] for stage in range(count)]
        return consecutive(sizes)

    @property
    def codec(self) -> Codec | None:
        """The codec that `compress_activations` names, if any."""
        return make_codec(self.compress_activations) if self.compress_activations else None


def consecutive(sizes: Iterable[int]) -> list[range]:
    """Ranges of these lengths, each beginning where the one before ends."""
    return [range(first, stop) for first, stop in pairwise(accumulate(sizes, initial=0))]


def parse_layers(text: str) -> tuple[int, ...]:
    """The blocks of each stage from `3,5,4`; raises MeshError."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise MeshError(
            f"layers_per_stage is {text!r}; it takes each stage's number of blocks, as in 3,5,4"
        )
    return tuple(map(int, parts))
