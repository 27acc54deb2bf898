"""Pipeline parallelism: a model cut into stages, and schedules of what each rank does when.

A schedule is data, as a collective is, and has the same four readers. `comm/schedules/kernel.py`
executes it; this folder knows that one, `comm`'s groups, and `nn`, but no mesh and no model.

Read actions.py (what a schedule is), one_forward_one_backward.py and zero_bubble.py (schedules),
automatic.py (those that are searched for) and schedules.py (all by name); then the readers
prove.py, price.py with costs.py, draw.py with picture.py, and run.py, which computes. formulas.py
has the papers' bubbles, activations.py counts what is kept in memory.
"""
