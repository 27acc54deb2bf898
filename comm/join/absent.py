"""Which ranks cannot come to the rendezvous any more, as launchers tell a process before it joins.

Imports nothing: the guard of every worker knows it, and most scripts need no more of comm.
"""

lost: dict[int, str] = {}
"""Ranks that have failed, and how."""

ended: dict[int, str] = {}
"""Ranks that have ended without a failure. A world that has formed knows by itself who has left."""
