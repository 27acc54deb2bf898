"""Operations, one file for each subject: small classes with `forward` and `backward` side by side,
and below them the functions that users call, gathered in `ringlet.nn.functional`.

They may import tensors, deferred gradients, the backend and one another; no module, layer or model.
Read arithmetic.py first, then products.py and normalization.py for what is fused by hand, and
attention.py with tiled_attention.py for the largest. nn/methods.py makes them tensors' methods.
"""
