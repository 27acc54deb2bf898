"""How far a build is, on a terminal."""

import contextlib
import time
from collections.abc import Iterator

from ringlet.launcher.commands.progress import progress
from ringlet.runtime.text.build import Progress


@contextlib.contextmanager
def building() -> Iterator[Progress]:
    """Gives what `runtime.text.build` calls; shows a bar, the speed, and the tokens so far."""
    phase, began, first = "", 0.0, 0
    with progress("making tokens") as at:

        def tell(what: str, read: int, of: int, tokens: int) -> None:
            nonlocal phase, began, first
            if what != phase:
                phase, began, first = what, time.monotonic(), read
            speed = (read - first) / 1e6 / max(time.monotonic() - began, 1e-3)
            counted = f", {tokens:,} tokens" if tokens else ""
            at(read // 10**6, of // 10**6, f"MB, {what}, {speed:.1f} MB/s{counted}")

        yield tell
