"""Checkpoints that any mesh can load: shards in safetensors, and a manifest that vouches for them.

Knows `sharding.shard_spec`. Read manifest.py, state.py, checkpoint.py (saving), pieces.py (what it
must hold), restore.py.
"""
