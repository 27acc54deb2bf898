"""torch.nn.utils' names."""

from ringlet.nn.optim.clipping import clip_grad_norm_ as clip_grad_norm_
from ringlet.nn.optim.clipping import clip_grad_value_ as clip_grad_value_
