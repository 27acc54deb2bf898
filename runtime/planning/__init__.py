"""What a run will take: descriptions of clusters and models, costs, a simulator, memory by formula.

Knows the mesh, the options, `pipeline`, `data`, and `comm`'s schedules as data.

Read cluster.py and device.py (the machine), models.py and setting.py (what runs, cut how), then
operations.py and costs.py (seconds of each part), fabric.py and events.py (collectives),
simulate.py (a step) and footprint.py (memory); last settings.py (what can be), stages.py,
recompute.py and search.py (what is best), and plan.py (a plan as a file).
docs/explanation/simulation.md has the formulas and their sources.
"""
