"""Automatic differentiation: tensors, operations that know their gradient, and the backward pass.

It may import the backend and random numbers, and knows no modules. Read tensor.py first, then
operations/arithmetic.py and engine.py; deferred.py is about gradients that are computed in place.
"""
