"""Lesson 12: ZeRO 1, each rank updates its shard of the flat buffer."""
