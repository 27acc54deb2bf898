"""How much fits the cache, for loops over blocks whose size no bit depends on.

Such are those that work element by element: the optimizers' and activations'. Blocks of what is
added up (norms, losses, normalization, attention) have the same size on all machines.
"""

from pathlib import Path

_L2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_USUAL = 512 << 10
_SHARE = 16
_LEAST, _MOST = 16 << 10, 64 << 10


def elementwise_block() -> int:
    """Elements in each block: one for each 16 bytes of a core's second-level cache; as for 512 KiB
    where the system does not say."""
    try:
        level_2 = int(_L2.read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        level_2 = _USUAL
    return min(max(level_2 // _SHARE, _LEAST), _MOST)
