"""What is priced: a model's training step, cut over a mesh, run by a program."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ringlet.nn.autograd.deferred import SUMMANDS
from ringlet.nn.autograd.operations.tiled_attention import KEPT
from ringlet.runtime.data.bucket_size import BUCKET_BYTES
from ringlet.runtime.mesh import AXES, MeshError, mesh_text
from ringlet.runtime.options import Parallelism, consecutive
from ringlet.runtime.pipeline.actions import PipelineSchedule
from ringlet.runtime.pipeline.activations import Moments, moments
from ringlet.runtime.pipeline.schedules import known_schedule, placement_of


@dataclass(frozen=True)
class Precision:
    """Bytes of each number, by what it is for."""

    dtype: str
    """In which products are computed: a key of `Device.peak`."""

    activation: int
    parameter: int
    gradient: int
    optimizer: int
    """Of the optimizer's state for each parameter, a copy in higher precision included."""


FLOAT32 = Precision("float32", 4, 4, 4, 8)
"""ringlet's: all in float32, AdamW."""

MIXED = Precision("float16", 2, 2, 2, 12)
"""Rajbhandari et al., "ZeRO" (2020), section 3.1: float16, and Adam's K = 12."""

MIXED_FLOAT32_GRADIENTS = Precision("bfloat16", 2, 2, 4, 12)
"""bfloat16 with gradients summed in float32, as Megatron-LM and Llama 3 do."""


@dataclass(frozen=True)
class Program:
    """What the training program does at the same time, and what it writes to memory."""

    precision: Precision = FLOAT32
    overlap_gradients: bool = True
    """Gradients are summed in buckets while backward goes on."""

    overlap_tensor: bool = False
    """In backward the tensor-parallel sums of inputs' gradients go on beside the weights'."""

    overlap_context: bool = True
    """Keys and values of other ranks arrive while attention computes."""

    overlap_parameters: bool = True
    """ZeRO-3 gathers a block's parameters while the one before computes."""

    scatter: bool = False
    """Tensor-parallel ranks each send a part of what they all have to the next stage, and gather
    it there over the faster links (Narayanan et al. 2021, section 4.1)."""

    overlap_transfers: bool = True
    """Ranks compute while messages of the pipeline are on their way."""

    tiled: bool = True
    """Attention's scores stay in caches, half of a causal one's are skipped, and backward computes
    them again (Dao et al., "FlashAttention", 2022). Else they go through memory."""

    contexts_kept: int = 0
    """Attention over at most so many keys keeps its scores all the same."""

    fused_loss: bool = True
    """Logits are computed and forgotten in blocks of rows."""

    normalized: bool = False
    """LayerNorm keeps what it has normalized in place of its input, which then takes memory of its
    own for as long as it is the residual."""

    mask: int = 1
    """Bytes that dropout keeps of each number."""

    summed: int = 0
    """Numbers of a weight's gradient that are computed apart before they are added to those of
    earlier micro-batches."""

    received: float = 0.0
    """How often a message that is on its way is in memory besides where it belongs."""

    besides: float = 0.0
    """Bytes that a rank needs besides what the formulas count."""

    bucket: int = BUCKET_BYTES
    """Bytes of a bucket of gradients, unless the options say."""

    update: float = 0.0
    """Seconds that each step takes besides."""


RINGLET = Program(
    overlap_tensor=True, contexts_kept=KEPT, normalized=True, mask=4, summed=SUMMANDS,
    received=1.0, besides=4 << 20,
)  # fmt: skip
"""ringlet itself. ZeroMQ receives messages into its own memory; what a rank needs besides are
modules that the first step imports, buffers of BLAS and the optimizer, and pages that are not
full."""

MEGATRON = Program(
    MIXED, overlap_gradients=False, overlap_transfers=False, scatter=True, tiled=False,
    fused_loss=False, update=3e-3,
)  # fmt: skip
"""Megatron-LM as of Narayanan et al. 2021."""


@dataclass(frozen=True)
class Setting:
    """How a step is cut: mesh, batch and options.

    `batch` and `micro_batch` count samples, the first over all ranks, the second on one. `cuts`
    are the blocks of each stage, by default nearly equally many.
    """

    mesh: Mapping[str, int]
    batch: int
    micro_batch: int = 1
    options: Parallelism = field(default_factory=Parallelism)
    program: Program = RINGLET
    cuts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mesh", {axis: self.mesh.get(axis, 1) for axis in AXES})
        for name, number in (*self.mesh.items(), ("micro_batch", self.micro_batch)):
            if number < 1:
                raise MeshError(f"{name} is {number}; it must be at least 1")
        if self.batch % self.replicas or self.batch // self.replicas % self.micro_batch:
            raise MeshError(
                f"a batch of {self.batch} cannot be cut into micro-batches of {self.micro_batch} "
                f"on {self.replicas} replicas; a multiple of {self.micro_batch * self.replicas} "
                "would fit"
            )
        if self.cuts is not None and (len(self.cuts) != self.stages or min(self.cuts) < 0):
            raise MeshError(f"cuts are {self.cuts}; there must be one number for each stage")

    @property
    def replicas(self) -> int:
        """Ranks with different samples."""
        return self.mesh["dp"] * self.mesh["ep"]

    @property
    def ranks(self) -> int:
        """Ranks of the mesh."""
        return math.prod(self.mesh.values())

    @property
    def stages(self) -> int:
        """Parts into which the pipeline cuts the model."""
        return self.mesh["pp"] * self.options.chunks

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a replica."""
        return self.batch // self.replicas // self.micro_batch

    @property
    def parts_key(self) -> tuple[int, ...]:
        """All of it that decides what one micro-batch costs in each part of a model, beside what is
        computed again and how crowded the host is."""
        mesh = self.mesh
        return mesh["tp"], mesh["cp"], mesh["ep"], self.micro_batch, self.options.sequence

    def blocks_of(self, layers: int) -> list[range]:
        """The numbers of the blocks in each stage; raises MeshError unless they are the model's."""
        stages = (
            consecutive(self.cuts) if self.cuts else self.options.stages(layers, self.mesh["pp"])
        )
        if stages[-1].stop != layers:
            raise MeshError(f"the stages have {stages[-1].stop} blocks, and the model {layers}")
        return stages

    @property
    def schedule(self) -> PipelineSchedule:
        """What the ranks of the pipeline do, in which order."""
        options = self.options
        return known_schedule(options.schedule, self.mesh["pp"], self.micro_batches, options.chunks)

    @property
    def held(self) -> tuple[Moments, ...]:
        """By rank of the pipeline: the micro-batches in memory whenever there are most."""
        options = self.options
        return moments(options.schedule, self.mesh["pp"], self.micro_batches, options.chunks)

    @cached_property
    def stages_by_rank(self) -> list[list[int]]:
        """The stages of each rank of the pipeline, in order."""
        options, found = self.options, [list[int]() for _ in range(self.mesh["pp"])]
        placement = placement_of(options.schedule, self.mesh["pp"], options.chunks)
        for stage, rank in enumerate(placement):
            found[rank].append(stage)
        return found

    @cached_property
    def strides(self) -> dict[str, int]:
        """How far apart neighbours along each axis are, in ranks."""
        strides, stride = {}, 1
        for axis in reversed(AXES):
            strides[axis], stride = stride, stride * self.mesh[axis]
        return strides

    def __str__(self) -> str:
        return f"{mesh_text(self.mesh)}, {self.micro_batches} x {self.micro_batch} samples"
