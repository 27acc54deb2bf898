"""How a model is spread over a mesh: what is asked for, and what cannot be."""

from collections.abc import Mapping
from dataclasses import dataclass

from ringlet.runtime.compression.codecs import make_codec
from ringlet.runtime.compression.schemes import parse
from ringlet.runtime.mesh import MeshError
from ringlet.runtime.pipeline.schedules import SCHEDULES


@dataclass(frozen=True)
class Parallelism:
    """Options of `parallelize` besides the mesh.

    `zero` is the stage of ZeRO, `schedule` and `chunks` (stages on each rank) are the pipeline's.
    `sequence` cuts activations between tensor-parallel layers along the sequence. `recompute`
    names modules whose forward pass is repeated in backward: "blocks", or patterns of paths.
    `bucket_bytes` is the size of what travels at once in data parallelism; 0: as the link is
    measured, see the module `bucket_size`. With `needed_first`
    the first layers' gradients overtake the last ones', and the next forward pass begins before
    all are there; it leaves no moment for clipping. With `local_steps` above 1 data-parallel
    replicas agree only every so many steps, with the outer optimizer's learning rate and
    momentum: 1 and 0 average, 0.7 and 0.9 are DiLoCo's. `compress` names a compressor of
    gradients, `compress_activations` a codec for what travels between layers and stages; see
    the package `compression`.
    """

    zero: int = 0
    schedule: str = "1f1b"
    chunks: int = 1
    sequence: bool = False
    recompute: tuple[str, ...] = ()
    bucket_bytes: int = 0
    compress: str = ""
    compress_activations: str = ""
    needed_first: bool = False
    local_steps: int = 1
    outer_learning_rate: float = 1.0
    outer_momentum: float = 0.0

    def check(self, shape: Mapping[str, int]) -> None:
        """Raise MeshError for what cannot be, or cannot be combined on a mesh of this shape."""
        if self.zero not in (0, 1, 2, 3):
            raise MeshError(f"there is no stage {self.zero} of ZeRO; there are 0 (none), 1, 2, 3")
        if self.schedule not in SCHEDULES:
            raise MeshError(f"unknown schedule {self.schedule!r}; there are {', '.join(SCHEDULES)}")
        interleaves = SCHEDULES[self.schedule].interleaves
        if self.chunks < 1 or (self.chunks > 1) != interleaves:
            fits = "2 or more" if interleaves else "1"
            raise MeshError(f"{self.schedule} with {self.chunks} chunks; {fits} would fit")
        if self.schedule != "1f1b" and shape["pp"] == 1:
            raise MeshError(f"{self.schedule} is a pipeline's schedule, and the mesh has pp=1")
        if self.zero >= 2 and self.schedule == "zero-bubble":
            raise MeshError(
                "zero-bubble puts the weights' gradients off, and ZeRO from stage 2 on has no "
                "memory to keep them in; zero=1, or the schedule 1f1b, would fit"
            )
        if self.bucket_bytes < 0:
            raise MeshError(
                f"bucket_bytes is {self.bucket_bytes}; it has to be 0 (measured) or more"
            )
        if self.local_steps < 1:
            raise MeshError(f"{self.local_steps} local steps; there has to be at least 1")
        if self.local_steps > 1 and shape["dp"] == 1:
            raise MeshError("local steps are for data-parallel replicas, and the mesh has dp=1")
        if self.local_steps > 1 and self.zero:
            raise MeshError(
                "ZeRO shares what replicas have in common, and with local steps they have nothing "
                "in common; zero=0, or local_steps=1, would fit"
            )
        if self.needed_first and (self.zero or self.local_steps > 1 or self.compress):
            raise MeshError(
                "needed_first orders the gradients of plain data parallelism; zero=0, "
                "local_steps=1 and no compression would fit"
            )
        self._check_compression(shape)
        if self.sequence and shape["tp"] == 1:
            raise MeshError("sequence parallelism needs tensor parallelism, and the mesh has tp=1")

    def check_device(self) -> None:
        """Raise MeshError for what cannot be where ranks compute on devices."""
        if self.compress_activations:
            raise MeshError(
                "compress_activations does not work on a device: the CPU encodes, and every "
                "layer would wait for it; without it, or on the CPU, it would fit"
            )

    def _check_compression(self, shape: Mapping[str, int]) -> None:
        try:
            if self.compress:
                parse(self.compress)
            if self.compress_activations:
                make_codec(self.compress_activations)
        except ValueError as error:
            raise MeshError(str(error)) from error
        if self.compress and (self.zero or shape["ep"] > 1):
            raise MeshError(
                "a compressor remembers what it lost of each rank's whole gradient, which ranks "
                "under ZeRO or with experts of their own do not have; zero=0 and ep=1 would fit"
            )
        if self.compress and (self.local_steps > 1 or shape["dp"] * shape["cp"] == 1):
            raise MeshError(
                "no gradients travel on a mesh with dp=1 and cp=1, nor between replicas with "
                "local steps: without compress it would fit"
            )
        if self.compress and self.sequence:
            raise MeshError(
                "with sequence parallelism some gradients are sums that come after the compressed "
                "ones, and a compressor needs whole ones; sequence=False would fit"
            )
        if self.compress_activations and shape["tp"] == 1 and shape["pp"] == 1:
            raise MeshError("no activations travel on a mesh with tp=1 and pp=1")
