"""Tensor and sequence parallelism: the matrices of a layer are sharded over ranks.

Knows `device_collectives`. Read regions.py, tensor_parallel.py, vocabulary_parallel.py.
"""
