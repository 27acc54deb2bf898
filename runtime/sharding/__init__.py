"""How a model is sharded, as data: a sharding plan gives a style to each module that changes.

Knows `tensor`, `context`, `expert`, the mesh and the rules. Read shard_spec.py (which shard of a
parameter), styles.py (what happens to a module), and sharding_plans.py.
"""
