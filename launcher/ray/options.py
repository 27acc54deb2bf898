"""What ranks on Ray are given of the cluster: options of `ringlet run` and `train`."""

from dataclasses import dataclass
from typing import ClassVar

from ringlet.launcher.options import option


@dataclass(frozen=True)
class RayOptions:
    """What each rank gets of the cluster."""

    HEADING: ClassVar = "Ray"
    engine: str | None = option(None, "Run on the cluster of this engine: ray.")
    cpus: float = option(1.0, "Cores of each worker.", least=0, shown="1")
    gpus: float = option(0.0, "GPUs of each worker.", least=0, shown="0")
    place_timeout: float = option(
        60.0, "How long to wait until the cluster has room for all workers.", unit="seconds"
    )
