"""Context parallelism: every rank has a part of each sequence, and keys go round a ring.

Knows `device_collectives`. Read context_parallel.py (who has and needs what),
blockwise_attention.py, ring_attention.py.
"""
