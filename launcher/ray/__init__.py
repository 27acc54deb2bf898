"""Ranks on a Ray cluster: `spawn`, and `ringlet run` and `train --engine ray`.

Each rank is an actor. May import supervisor/ and workers/; Ray is imported where it is asked for.
Read cluster (connecting, and placing actors), rank (the actor), job (starts and restarts), then
function, program or training: what the ranks do.
"""

from ringlet.launcher.ray.function import spawn

__all__ = ["spawn"]
