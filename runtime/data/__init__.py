"""Data parallelism and ZeRO: gradients are summed over ranks, in buckets, while backward runs.

Knows `compression`, `sharding.shard_spec`, the mesh and the options. Read reducer.py (the order of
a step), data_parallel.py, zero.py, zero_blocks.py, priority.py, local_steps.py, and last
gradient_groups.py, which chooses among them.
"""
