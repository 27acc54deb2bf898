"""Generation from the models of `ringlet.nn.models`, which do not know it.

Read decoding.py first (a model from token to token), then sampling.py and beams.py.
"""
