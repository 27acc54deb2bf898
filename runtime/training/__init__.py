"""A training run: its config and data, the loop, and what surrounds it.

Knows all of `runtime`. Read config.py, corpus.py, trainer.py.
"""
