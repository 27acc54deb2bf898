"""Expert parallelism: every rank has some of a layer's experts, and rows travel to them.

Knows `tensor.regions`, the mesh and `device_collectives`.
"""
