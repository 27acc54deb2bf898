"""What a run will need, by formula.

Knows the mesh, the options, `pipeline` and `data`.
"""
