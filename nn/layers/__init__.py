"""Layers: modules that compute with `ringlet.nn.functional` and have parameters or options.

They may import everything below them (modules, functions, the backend), no model and no optimizer.
Read basic.py first (Linear, Embedding, Dropout), then normalization.py and attention.py;
transformer.py puts them together. A layer outside a model draws its initial values with seed 0.
"""
